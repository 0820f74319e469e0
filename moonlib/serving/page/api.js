// The HTTP interface: what the page asks, and its refusals as one kind of error.

const PATIENCE_MS = 30_000

/** An answer that is none: what was wrong, in words for people, and the field of the request that was to blame. */
export class Refusal extends Error {
  constructor(message, { status = 0, field = null, again = true } = {}) {
    super(message)
    this.status = status // 0: no answer came at all
    this.field = field
    this.again = again // whether the same request may succeed later
  }
}

/** Parse JSON; integers that a double can't hold come as their digits, so that no item id is rounded. */
function parse(text) {
  return JSON.parse(text, (_, value, context) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "") ? context.source : value
  )
}

function refusal(response, body) {
  const { status } = response
  const error = body?.error
  const field = error?.field ?? null
  const said = typeof error?.message === "string" ? error.message : ""
  const wait = Number(response.headers.get("retry-after"))
  const when = wait > 0 ? ` Try again in ${wait} s.` : " Try again in a moment."
  if (status === 429) return new Refusal("Many are searching right now, and the server takes no more." + when, { status })
  if (status === 503) return new Refusal("The server isn't ready yet." + when, { status })
  if (status === 504) return new Refusal("The server didn't answer in time. Try again in a moment.", { status })
  if (status === 408) return new Refusal("The photo took too long to reach the server. Try again, or with a smaller one.", { status })
  if (status === 413) return new Refusal(said || "The photo is larger than the server takes.", { status, field: field ?? "image", again: false })
  if (status >= 500) {
    const request = body?.request_id
    return new Refusal(`The server failed (${status}).${request ? ` It logged the reason under request ${request}.` : ""}`, { status, field })
  }
  return new Refusal(said || `The server refused the search (${status}).`, { status, field, again: false })
}

async function ask(path, options = {}) {
  const limit = AbortSignal.timeout(PATIENCE_MS)
  const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit
  let response, text
  try {
    response = await fetch(path, { ...options, signal, headers: { accept: "application/json" } })
    text = await response.text()
  } catch (error) {
    if (options.signal?.aborted) throw error
    if (limit.aborted) throw new Refusal(`No answer within ${PATIENCE_MS / 1000} seconds.`)
    throw new Refusal(navigator.onLine ? "The server can't be reached." : "This device is offline.")
  }
  let body = null
  try { body = parse(text) } catch { /* a proxy's page, perhaps */ }
  if (!response.ok) throw refusal(response, body)
  if (body === null) throw new Refusal("The answer isn't JSON: something else answers at this address.", { status: response.status })
  return body
}

/** What is served: aliases, columns, limits, and what the encoder reads. */
export const about = () => ask("v1/about")

/**
 * Search.
 *
 * @param {{text?: string, image?: Blob, crop?: number[], like?: string, where?: string, alias?: string, k: number}} query
 *   `where` is JSON already; what is missing isn't sent.
 * @param {AbortSignal} signal
 */
export function search(query, signal) {
  const form = new FormData()
  for (const name of ["text", "like", "where", "alias", "k"]) if (query[name]) form.set(name, query[name])
  if (query.image) form.set("image", query.image, query.image.name ?? "photo")
  if (query.image && query.crop) form.set("crop", query.crop.map((at) => at.toFixed(4)).join(","))
  return ask("v1/search", { method: "POST", body: form, signal })
}
