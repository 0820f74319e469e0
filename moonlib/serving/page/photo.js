// A photo on its way into the query: chosen, taken, pasted or dropped, and made to fit the server's limits.

const READ_EVERYWHERE = ["image/jpeg", "image/png", "image/webp"]

/** The first picture among files that were chosen, pasted or dropped; undefined if there is none. */
export const firstPicture = (files) => [...(files ?? [])].find((file) => file.type.startsWith("image/"))

async function decode(blob) {
  const image = new Image()
  image.src = URL.createObjectURL(blob)
  try {
    await image.decode()
  } catch {
    URL.revokeObjectURL(image.src)
    throw new Error("This file isn't a picture that the browser can read.")
  }
  return image
}

/** Draw a picture again as a JPEG of so many times its width. */
async function redrawn(image, scale) {
  const canvas = document.createElement("canvas")
  canvas.width = Math.max(1, Math.floor((image.naturalWidth || 512) * scale)) // an SVG may have no size
  canvas.height = Math.max(1, Math.floor((image.naturalHeight || 512) * scale))
  const paper = canvas.getContext("2d")
  paper.fillStyle = "white" // where it is transparent
  paper.fillRect(0, 0, canvas.width, canvas.height)
  paper.drawImage(image, 0, 0, canvas.width, canvas.height)
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92))
  if (!blob) throw new Error("This picture is larger than the browser can draw.")
  return blob
}

/**
 * Prepare a photo for the server.
 *
 * @param {File} file
 * @param {{max_bytes?: number, max_pixels?: number}} limits of the server
 * @returns {Promise<{image: Blob, url: string, ratio: number, note: string}>} what is sent, the URL that shows it (revoke
 *   it in the end), its width / height, and what was done to it, if anything
 */
export async function prepare(file, limits) {
  if (!file.size) throw new Error("This file is empty.")
  const picture = await decode(file)
  const bytes = limits.max_bytes ?? Infinity
  const pixels = picture.naturalWidth * picture.naturalHeight
  const ratio = picture.naturalWidth / picture.naturalHeight || 1
  let scale = Math.min(1, Math.sqrt((limits.max_pixels ?? Infinity) / pixels) || 1)
  if (scale === 1 && file.size <= bytes && READ_EVERYWHERE.includes(file.type)) return { image: file, url: picture.src, ratio, note: "" }
  let image = await redrawn(picture, scale)
  // A JPEG's size goes roughly with its pixels: a few rounds suffice, and a picture of one pixel always fits.
  while (image.size > bytes && scale * picture.naturalWidth > 16) {
    scale *= Math.min(0.9, Math.sqrt(bytes / image.size))
    image = await redrawn(picture, scale)
  }
  URL.revokeObjectURL(picture.src)
  const note = scale < 1 ? "Made smaller before it was sent: the server takes no larger photos." : "Sent as a JPEG."
  return { image: new File([image], "photo.jpg", { type: "image/jpeg" }), url: URL.createObjectURL(image), ratio, note }
}
