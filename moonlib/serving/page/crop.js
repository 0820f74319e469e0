// The part of the photo to search for: a box that mouse, touch and keyboard move and resize.

const LEAST = 0.05 // of the photo's width and height
const STEP = 0.02
const WHOLE = [0, 0, 1, 1]
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }

const within = (value, low, high) => Math.min(Math.max(value, low), high)

/** Move a box by a vector, as far as the photo reaches. */
function moved([x0, y0, x1, y1], dx, dy) {
  dx = within(dx, -x0, 1 - x1)
  dy = within(dy, -y0, 1 - y1)
  return [x0 + dx, y0 + dy, x1 + dx, y1 + dy]
}

/** Move one corner ("nw", "ne", "sw", "se") by a vector; the box keeps its least size. */
function resized([x0, y0, x1, y1], corner, dx, dy) {
  if (corner.includes("w")) x0 = within(x0 + dx, 0, x1 - LEAST)
  else x1 = within(x1 + dx, x0 + LEAST, 1)
  if (corner.includes("n")) y0 = within(y0 + dy, 0, y1 - LEAST)
  else y1 = within(y1 + dy, y0 + LEAST, 1)
  return [x0, y0, x1, y1]
}

export class CropBox {
  /**
   * @param {HTMLElement} stage holds the photo, and `box` over it
   * @param {HTMLElement} box holds the four corners
   * @param {(corners: number[] | null) => void} changed called when a change is done; null is the whole photo
   */
  constructor(stage, box, changed) {
    this.stage = stage
    this.box = box
    this.changed = changed
    this.drag = null
    stage.addEventListener("pointerdown", (event) => this.begin(event))
    stage.addEventListener("pointermove", (event) => this.follow(event))
    stage.addEventListener("pointerup", (event) => this.end(event, true))
    stage.addEventListener("pointercancel", (event) => this.end(event, false))
    box.addEventListener("keydown", (event) => this.key(event))
    this.show(WHOLE)
  }

  /** The corners x0, y0, x1, y1 in 0..1, or null for the whole photo. */
  get value() {
    return this.corners.every((at, i) => Math.abs(at - WHOLE[i]) < 1e-6) ? null : this.corners
  }

  /** Take the whole photo again, without telling anyone. */
  reset() {
    this.show(WHOLE)
  }

  show(corners) {
    this.corners = corners
    const [x0, y0, x1, y1] = corners.map((at) => at * 100)
    Object.assign(this.box.style, { left: `${x0}%`, top: `${y0}%`, width: `${x1 - x0}%`, height: `${y1 - y0}%` })
    this.box.classList.toggle("whole", this.value === null)
  }

  /** A pointer's place on the photo, in 0..1. */
  place(event) {
    const area = this.stage.getBoundingClientRect()
    return [within((event.clientX - area.left) / area.width, 0, 1), within((event.clientY - area.top) / area.height, 0, 1)]
  }

  begin(event) {
    if (event.button !== 0 || this.drag) return
    const corner = event.target.dataset?.corner
    const inside = event.target === this.box && this.value !== null
    // A finger on the photo scrolls the page; it draws no new box.
    if (!corner && !inside && event.pointerType === "touch") return
    this.drag = { pointer: event.pointerId, from: this.place(event), before: this.corners, corner, inside }
    this.stage.setPointerCapture(event.pointerId)
    ;(corner ? event.target : this.box).focus({ preventScroll: true })
    event.preventDefault()
  }

  follow(event) {
    const { drag } = this
    if (drag?.pointer !== event.pointerId) return
    const [x, y] = this.place(event)
    const [fromX, fromY] = drag.from
    if (drag.corner) this.show(resized(drag.before, drag.corner, x - fromX, y - fromY))
    else if (drag.inside) this.show(moved(drag.before, x - fromX, y - fromY))
    else if (Math.abs(x - fromX) >= LEAST && Math.abs(y - fromY) >= LEAST)
      this.show([Math.min(x, fromX), Math.min(y, fromY), Math.max(x, fromX), Math.max(y, fromY)])
  }

  end(event, keep) {
    const { drag } = this
    if (drag?.pointer !== event.pointerId) return
    this.drag = null
    if (!keep) this.show(drag.before)
    else if (this.corners !== drag.before) this.changed(this.value)
  }

  key(event) {
    const before = this.corners
    const corner = event.target.dataset?.corner
    const arrow = ARROWS[event.key]
    if (arrow && !event.altKey && !event.ctrlKey && !event.metaKey) {
      const [dx, dy] = arrow.map((way) => way * STEP)
      this.show(corner || event.shiftKey ? resized(before, corner ?? "se", dx, dy) : moved(before, dx, dy))
    } else if (event.key === "Escape" && this.value !== null) this.show(WHOLE)
    else return
    event.preventDefault()
    if (this.corners.some((at, i) => at !== before[i])) this.changed(this.value)
  }
}
