// The page: one query, what the server answers to it, and what is shown meanwhile.

import * as address from "./address.js"
import { about, Refusal, search } from "./api.js"
import { CropBox } from "./crop.js"
import { Filters } from "./filters.js"
import { firstPicture, prepare } from "./photo.js"
import { column, compare, fill, frame, number, waiting } from "./results.js"

const PAGE = 24 // products at first, and more by each "show more"
const BESIDE = 12 // products in each of two lists
const SLOW_MS = 150 // an answer that is faster needs no sign of waiting
const STILL_MS = 350 // the crop box rests for so long before the search follows it

const at = (id) => document.getElementById(id)
const query = { photo: null, like: null, k: PAGE } // the rest of it is in the form
let served = { alias: "", aliases: [], columns: {}, limits: {}, reads: ["image", "text"] }
let filters = new Filters(document.createElement("div"), {})
let running = null // the search under way
let unreached = false // whether the last search found no server
const crop = new CropBox(at("stage"), at("crop"), cropped)

// ── what is asked ──────────────────────────────────────────────────────────────────────────────────────────────────

const asksNothing = () => !query.photo && !query.like && !at("text").value.trim()

/** The query but for its photo; the alias that answers unless another is named goes without saying. */
function written() {
  const alias = at("alias").value
  return {
    text: at("text").value.trim(),
    like: query.like?.item_id ?? "",
    alias: alias === served.alias ? "" : alias,
    beside: at("beside").value,
    typed: filters.typed,
  }
}

/** Write the query to the page's address, and the title of a product that others shall be like, which no request returns. */
const keep = (anew) => address.write(written(), anew, { title: query.like?.row?.title })

/** Search, and show what comes; `anew` makes an entry of the browser's history. */
async function run({ anew = false } = {}) {
  running?.abort()
  clearTimeout(run.later)
  forget()
  if (asksNothing()) return welcome()
  let where
  try {
    where = filters.where
  } catch (error) {
    filters.mark(error.inputs)
    problem("where", error.message)
    at("refine").open = true
    return
  }
  running = new AbortController()
  const { signal } = running
  const words = written()
  keep(anew)
  document.title = words.text ? `${words.text} – product search` : "Product search"
  const aliases = words.beside ? [words.alias, words.beside] : [words.alias]
  const asked = {
    text: words.text,
    like: words.like,
    where,
    image: query.photo?.image,
    crop: crop.value,
    k: Math.min(words.beside ? BESIDE : query.k, served.limits.k ?? Infinity),
  }
  const columns = busy(aliases, asked.k)
  const answers = await Promise.all(aliases.map((alias) => search({ ...asked, alias }, signal).catch((error) => error)))
  if (signal.aborted) return
  running = null
  show(columns, aliases, answers, asked.k)
}

// ── what is shown ──────────────────────────────────────────────────────────────────────────────────────────────────

function welcome() {
  document.body.dataset.view = "welcome"
  at("columns").replaceChildren()
  at("status").textContent = ""
  at("further").hidden = true
  document.title = "Product search"
  idle()
  keep(false)
}

function idle() {
  clearTimeout(busy.later)
  at("results").removeAttribute("aria-busy")
  document.body.classList.remove("busy")
}

/** Make the columns, or keep those that are there, faded, until the answer comes. */
function busy(aliases, k) {
  document.body.dataset.view = aliases.length > 1 ? "beside" : "found"
  at("results").setAttribute("aria-busy", "true")
  const names = aliases.join(" | ")
  const fresh = busy.names !== names || !at("columns").querySelector(".card:not(.waiting)")
  if (fresh) {
    busy.names = names
    busy.columns = aliases.map((alias) => column(alias || served.alias || "Products"))
    at("columns").replaceChildren(...busy.columns.map(({ element }) => element))
  }
  clearTimeout(busy.later)
  busy.later = setTimeout(() => {
    document.body.classList.add("busy")
    at("status").textContent = "Searching…"
    if (fresh) for (const { list } of busy.columns) waiting(list, Math.min(k, BESIDE))
  }, SLOW_MS)
  return busy.columns
}

function show(columns, aliases, answers, k) {
  idle()
  const failed = answers.filter((answer) => answer instanceof Error)
  columns.forEach(({ list, source, notice }, i) => {
    const answer = answers[i]
    notice.replaceChildren()
    source.textContent = ""
    if (answer instanceof Error) {
      list.replaceChildren()
      if (failed.length < answers.length) notice.append(paragraph(answer.message))
      return
    }
    fill(list, answer.hits, alike)
    source.textContent = answer.snapshot
    if (!answer.hits.length) notice.append(...nothing())
  })
  if (failed.length) refuse(failed[0], failed.length === answers.length)
  if (failed.length === answers.length) {
    at("status").textContent = ""
    at("further").hidden = true
    return
  }
  const hits = answers.map((answer) => answer.hits ?? [])
  suggest(hits.flat())
  at("further").hidden = aliases.length > 1 || hits[0].length < k || k >= (served.limits.k ?? Infinity)
  const names = aliases.map((alias) => alias || served.alias)
  if (failed.length) at("status").textContent = `${names.find((_, i) => !(answers[i] instanceof Error))} alone answered`
  else if (aliases.length > 1) at("status").textContent = compare(names, columns.map(({ list }) => list), hits)
  else {
    at("status").textContent = `${number(hits[0].length, "product")} · ${answers[0].snapshot}`
  }
}

function paragraph(text) {
  const made = document.createElement("p")
  made.textContent = text
  return made
}

function action(label, act) {
  const made = document.createElement("button")
  made.type = "button"
  made.textContent = label
  made.addEventListener("click", act)
  return made
}

/** What a list says that found no product, and what to do. */
function nothing() {
  if (Object.keys(filters.typed).length) return [paragraph("No product passes these filters."), action("Clear the filters", clear)]
  if (served.products === 0) return [paragraph("There are no products yet. `moonlib upsert` adds some.")]
  return [paragraph("Nothing was found. Try other words or another photo.")]
}

const PLACES = { text: "text", image: "photo", crop: "crop", like: "like", alias: "alias", where: "where" }

/** Say at the field what is wrong with it. */
function problem(place, message) {
  const said = at(`${place}-problem`)
  said.textContent = message
  said.hidden = false
}

/** Take back what was said about the last search. */
function forget() {
  at("alert").replaceChildren()
  for (const said of document.querySelectorAll(".problem")) {
    said.hidden = true
    said.textContent = ""
  }
  for (const input of document.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid")
}

/** Show a refusal: at the field that it names, and, if no list could be shown, in their place. */
function refuse(error, alone) {
  const refused = error instanceof Refusal
  if (!refused) console.error(error)
  const name = (refused && error.field?.split(/[.[]/)[0]) || ""
  const place = PLACES[name]
  unreached = refused && error.status === 0
  if (place === "where" || place === "alias") at("refine").open = true
  if (place === "where") {
    filters.mark(filters.named(error.field) ?? filters.named(error.message))
  } else if (place === "text" || place === "alias") at(place).setAttribute("aria-invalid", "true")
  if (place) problem(place, error.message)
  if (!alone) return
  const title = paragraph(place ? `The search was refused, because of ${{ text: "the words", image: "the photo", crop: "the part of the photo", like: "the product", alias: "the alias", where: "a filter" }[name]}.` : "The search failed.")
  title.className = "title"
  at("alert").append(title, paragraph(refused ? error.message : "The page made a mistake; the browser's console says more."))
  if (!refused || error.again) at("alert").append(action("Try again", () => run()))
}

/** Offer the categories that were seen, and what is above them, to the filter's field. */
function suggest(hits) {
  const known = new Set([...at("categories").options].map(({ value }) => value))
  for (const { row } of hits) {
    const levels = typeof row?.category === "string" ? row.category.split("/") : []
    levels.forEach((_, i) => known.add(levels.slice(0, i + 1).join("/")))
  }
  at("categories").replaceChildren(...[...known].sort().map((value) => Object.assign(document.createElement("option"), { value })))
}

// ── the query: words, a photo, a product ───────────────────────────────────────────────────────────────────────────

async function take(file) {
  if (!file) return
  if (!served.reads.includes("image")) return problem("photo", "This encoder reads no pictures: search with words.")
  const turn = (take.turn = (take.turn ?? 0) + 1)
  let photo
  try {
    photo = await prepare(file, served.limits)
  } catch (error) {
    if (turn === take.turn) problem("photo", error.message)
    return
  }
  if (turn !== take.turn) return URL.revokeObjectURL(photo.url) // another was chosen meanwhile
  removePhoto()
  query.photo = photo
  removeLike()
  crop.reset()
  described()
  at("photo-image").src = photo.url
  at("stage").style.setProperty("--ratio", photo.ratio)
  at("photo-note").textContent = photo.note
  at("photo-note").hidden = !photo.note
  at("photo").hidden = false
  query.k = PAGE
  await run()
  at("results").scrollIntoView({ block: "nearest" })
}

function removePhoto() {
  if (query.photo) URL.revokeObjectURL(query.photo.url)
  query.photo = null
  at("photo").hidden = true
  at("photo-image").removeAttribute("src")
}

function removeLike() {
  query.like = null
  at("like").hidden = true
}

function likes(hit) {
  removePhoto()
  at("text").value = ""
  query.like = hit
  query.k = PAGE
  frame(at("like-picture"), hit.picture?.replace(/^\//, ""))
  at("like-title").textContent = hit.row?.title || `product ${hit.item_id}`
  at("like").hidden = false
}

function alike(hit) {
  likes(hit)
  run({ anew: true })
  at("results").focus({ preventScroll: true })
  scrollTo({ top: 0 })
}

function described() {
  const part = crop.value
  at("whole").disabled = !part
  const [left, top, right, bottom] = (part ?? []).map((edge) => `${Math.round(edge * 100)} %`)
  at("crop-where").textContent = part ? `From ${left} to ${right} across, ${top} to ${bottom} down` : "The whole photo"
}

function cropped() {
  described()
  clearTimeout(run.later)
  run.later = setTimeout(run, STILL_MS)
}

function clear() {
  filters.typed = {}
  filtered()
  run()
}

function filtered() {
  const count = Object.keys(filters.typed).length
  at("filter-count").textContent = count || ""
}

// ── the start, and what people do ──────────────────────────────────────────────────────────────────────────────────

/** Make the form as the address says. */
function restore() {
  const said = address.read()
  at("text").value = said.text
  for (const id of ["alias", "beside"]) {
    const known = [...at(id).options].map(({ value }) => value)
    at(id).value = known.includes(said[id]) ? said[id] : id === "alias" ? served.alias : ""
  }
  filters.typed = said.typed
  filtered()
  removePhoto()
  removeLike()
  query.k = PAGE
  if (said.like) {
    const from = at("alias").value === served.alias ? "" : `?alias=${encodeURIComponent(at("alias").value)}`
    likes({ item_id: said.like, row: { title: history.state?.title }, picture: `v1/products/${encodeURIComponent(said.like)}/picture${from}` })
  }
  run()
}

function choices(select, names, none) {
  const options = none ? [["", none], ...names.map((name) => [name, name])] : names.map((name) => [name, name])
  select.replaceChildren(...options.map(([value, label]) => Object.assign(document.createElement("option"), { value, textContent: label })))
}

async function start() {
  try {
    served = { ...served, ...(await about()) }
  } catch (error) {
    unreached = error.status === 0
    document.body.dataset.view = "found"
    refuse(error, true)
    at("alert").querySelector("button")?.replaceWith(action("Try again", () => location.reload()))
    return
  }
  const reads = (modality) => served.reads.includes(modality)
  const names = served.aliases.map(({ name }) => name)
  choices(at("alias"), names)
  choices(at("beside"), names, "nothing")
  at("versions").hidden = names.length < 2
  filters = new Filters(at("fields"), served.columns)
  at("filters").hidden = !filters.columns.length
  at("refine").hidden = at("versions").hidden && at("filters").hidden
  at("refine").open = matchMedia("(min-width: 60rem)").matches
  at("served").textContent = typeof served.products === "number" ? number(served.products, "product") : ""
  at("choose").hidden = at("camera").hidden = !reads("image")
  at("text").parentElement.hidden = !reads("text")
  at("title").textContent = `Find products by ${served.reads.map((modality) => ({ image: "picture", text: "words" })[modality]).join(" or ")}`
  const ways = matchMedia("(pointer: coarse)").matches ? "Take a photo, choose one" : "Drop a photo anywhere, paste one"
  at("hint").textContent = reads("image") ? `${ways}${reads("text") ? ", or type" : ""}.` : ""
  document.body.classList.add("ready")
  restore()
}

at("search").addEventListener("submit", (event) => {
  event.preventDefault()
  if (at("text").value.trim()) removeLike()
  query.k = PAGE
  run({ anew: true })
  if (matchMedia("(pointer: coarse)").matches) at("text").blur() // the phone's keyboard would hide the results
  if (asksNothing()) {
    problem("text", served.reads.includes("image") ? "Type what you are looking for, or add a photo." : "Type what you are looking for.")
    at("text").focus()
  }
})
at("choose").addEventListener("click", () => at("file").click())
at("camera").addEventListener("click", () => at("shot").click())
for (const id of ["file", "shot"])
  at(id).addEventListener("change", (event) => {
    take(event.target.files[0])
    event.target.value = "" // so that the same file can be chosen again
  })
at("remove").addEventListener("click", () => {
  removePhoto()
  run()
  at("choose").focus()
})
at("whole").addEventListener("click", () => {
  crop.reset()
  at("crop").focus()
  cropped()
})
at("like-remove").addEventListener("click", () => {
  removeLike()
  run({ anew: true })
  at("text").focus()
})
for (const id of ["alias", "beside"]) at(id).addEventListener("change", () => run())
at("filters").addEventListener("submit", (event) => event.preventDefault()) // Enter has changed the field already
at("filters").addEventListener("change", () => {
  filtered()
  run()
})
at("clear").addEventListener("click", clear)
at("further").addEventListener("click", async () => {
  const seen = at("columns").querySelectorAll(".card").length
  query.k += PAGE
  await run()
  at("columns").querySelectorAll(".alike")[seen]?.focus() // where the new ones begin
})

document.addEventListener("paste", (event) => {
  const picture = firstPicture(event.clipboardData?.files)
  if (!picture) return // words go where the cursor is
  event.preventDefault()
  take(picture)
})

let entered = 0 // a drag enters a child before it leaves the parent
const carries = (event) => event.dataTransfer?.types.includes("Files")
document.addEventListener("dragenter", (event) => {
  if (!carries(event)) return
  entered += 1
  at("drop").hidden = false
})
document.addEventListener("dragleave", (event) => {
  if (!carries(event)) return
  entered = Math.max(0, entered - 1)
  at("drop").hidden = entered > 0 ? at("drop").hidden : true
})
document.addEventListener("dragover", (event) => event.preventDefault())
document.addEventListener("drop", (event) => {
  event.preventDefault() // or the browser would leave the page for the file
  entered = 0
  at("drop").hidden = true
  forget()
  const picture = firstPicture(event.dataTransfer?.files)
  if (picture) take(picture)
  else problem("photo", event.dataTransfer?.files.length ? "This file isn't a picture." : "Only files can be dropped here: save the picture first, or copy and paste it.")
})

addEventListener("popstate", restore)
addEventListener("online", () => unreached && run())

start()
