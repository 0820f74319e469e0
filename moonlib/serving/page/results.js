// Results: cards of products, and two lists side by side with what moved between them.

import { spoken } from "./filters.js"

const price = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 })
const counted = new Intl.NumberFormat()
const ordinals = new Intl.PluralRules("en", { type: "ordinal" })
const ENDINGS = { one: "st", two: "nd", few: "rd", other: "th" }

/** 1st, 2nd, 3rd, 4th. */
export const ordinal = (rank) => `${rank}${ENDINGS[ordinals.select(rank)]}`

/** A number of things: "1 product", "1,200 products". */
export const number = (count, thing) => `${counted.format(count)} ${thing}${count === 1 ? "" : "s"}`

const copy = (template) => document.getElementById(template).content.firstElementChild.cloneNode(true)

/** A category path for people: levels are kept with "/" between them, and a "/" within a level as its full-width form. */
const path = (category) => String(category).split(/\s*[/>›]\s*/).join(" › ").replaceAll("／", "/")

/** Put a product's picture into its frame; the frame alone stands for a picture that there isn't. */
export function frame(place, address) {
  place.replaceChildren()
  place.classList.toggle("none", !address)
  if (!address) return
  const image = document.createElement("img")
  image.loading = "lazy"
  image.decoding = "async"
  image.alt = "" // the title beside it names the product
  image.addEventListener("error", () => {
    image.remove()
    place.classList.add("none")
  })
  image.src = address
  place.append(image)
}

/**
 * A product's card.
 *
 * @param {object} hit of the interface's answer
 * @param {(hit: object) => void} alike called for "more like this"
 */
function card(hit, alike) {
  const made = copy("card")
  const { title, category, price: cost, in_stock: stocked, ...others } = hit.row ?? {}
  const name = title || `Product ${hit.item_id}`
  made.dataset.item = hit.item_id
  // Relative, so that the page works below a proxy's prefix.
  frame(made.querySelector(".picture"), hit.picture?.replace(/^\//, ""))
  made.querySelector("h4").textContent = name
  made.querySelector("h4").title = [`item_id: ${hit.item_id}`]
    .concat(Object.entries(others).filter(([, value]) => value !== null).map(([key, value]) => `${spoken(key)}: ${value}`))
    .join("\n")
  const facts = [typeof cost === "number" ? price.format(cost) : cost ?? "", stocked === false ? "out of stock" : ""]
  made.querySelector(".price").textContent = facts.filter(Boolean).join(" · ")
  made.querySelector(".category").textContent = category ? path(category) : ""
  made.querySelector(".number").textContent = hit.score.toFixed(3)
  made.querySelector(".gauge").style.setProperty("--share", Math.max(0, hit.score))
  const button = made.querySelector(".alike")
  button.setAttribute("aria-label", `More like this: ${name}`)
  button.addEventListener("click", () => alike(hit))
  return made
}

/** Show hits as cards in a list. */
export function fill(list, hits, alike) {
  list.replaceChildren(...hits.map((hit) => card(hit, alike)))
}

/** Empty cards while the first answer is awaited. */
export function waiting(list, count) {
  list.replaceChildren(...Array.from({ length: count }, () => {
    const made = copy("card")
    made.classList.add("waiting")
    made.setAttribute("aria-hidden", "true")
    made.querySelector(".alike").disabled = true
    return made
  }))
}

/** A column: its heading, the list of cards, and a place for what went wrong. */
export function column(heading) {
  const made = copy("column")
  const title = made.querySelector("h3")
  title.textContent = heading
  title.id = `column-${heading}`
  made.setAttribute("aria-labelledby", title.id)
  return { element: made, list: made.querySelector(".cards"), source: made.querySelector(".source"), notice: made.querySelector(".notice") }
}

/**
 * Say on each card of two lists where the other list has it, and return what moved in a sentence.
 *
 * @param {[string, string]} names of the two aliases
 * @param {[HTMLElement, HTMLElement]} lists
 * @param {[object[], object[]]} hits
 */
export function compare(names, lists, hits) {
  const ranks = hits.map((side) => new Map(side.map((hit, i) => [String(hit.item_id), i + 1])))
  const count = { both: 0, up: 0, down: 0 }
  lists.forEach((list, side) => {
    const [own, other] = [ranks[side], ranks[1 - side]]
    for (const made of list.children) {
      const item = made.dataset.item
      const move = made.querySelector(".move")
      const there = other.get(item)
      const up = there - own.get(item) // against the other list
      move.hidden = false
      if (!there) {
        move.textContent = side ? "new" : `not in ${names[1]}`
        move.classList.add(side ? "new" : "gone")
      } else if (up === 0) move.textContent = "same place"
      else {
        move.textContent = side ? `${up > 0 ? "▲" : "▼"} ${Math.abs(up)}, was ${ordinal(there)}` : `${ordinal(there)} in ${names[1]}`
        if (side) move.classList.add(up > 0 ? "up" : "down")
      }
      if (side && there) {
        count.both += 1
        count.up += up > 0
        count.down += up < 0
      }
    }
  })
  pair(lists)
  const alone = (side) => hits[side].length - count.both
  const said = [[count.both, "in both lists"], [count.up, "up"], [count.down, "down"], [alone(0), `only in ${names[0]}`], [alone(1), `only in ${names[1]}`]]
  return said.filter(([many], i) => many || i === 0).map(([many, what]) => `${many} ${what}`).join(" · ")
}

/** Light up a product in both lists while the pointer or the focus is on one of its cards. */
function pair(lists) {
  for (const [side, list] of lists.entries())
    for (const made of list.children) {
      const twin = [...lists[1 - side].children].find((other) => other.dataset.item === made.dataset.item)
      const light = (on) => [made, twin].forEach((one) => one?.classList.toggle("lit", on))
      for (const name of ["pointerenter", "focusin"]) made.addEventListener(name, () => light(true))
      for (const name of ["pointerleave", "focusout"]) made.addEventListener(name, () => light(false))
    }
}
