// Filters on the columns that the center keeps: a field for each, and what they say as the interface's `where`.

const FIRST = ["category", "price", "in_stock", "merchant", "merchant_id", "brand"]
const SPECIAL = /[.*+?^${}()|[\]\\]/g
const SHOWN_ANYWAY = ["title"] // words find it better than an exact filter

const KINDS = { text: "texts", float: "range", boolean: "truth" }

/** What a filter on a column asks for: "range", "integers" (any of), "texts" (any of) or "truth". */
const kind = (name, type) => KINDS[type] ?? (/(^|_)(id|code)$|^(merchant|seller|shop|brand)$/.test(name) ? "integers" : "range")

/** A column's name as people write it. */
export const spoken = (name) => (name.charAt(0).toUpperCase() + name.slice(1)).replaceAll("_", " ").replace(/ id$/, "")

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children)
  return made
}

/** Split what was typed as "3, 7" or "Nike | Adidas". */
const several = (text, between) => text.split(between).map((part) => part.trim()).filter(Boolean)

export class Filters {
  /**
   * @param {HTMLElement} fields where the fields are put
   * @param {Record<string, string>} columns the kept columns and their types
   */
  constructor(fields, columns) {
    const place = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length)
    this.columns = Object.entries(columns)
      .map(([name, type]) => ({ name, kind: kind(name, type), whole: type === "integer" }))
      .filter((column) => !SHOWN_ANYWAY.includes(column.name))
      .sort((a, b) => place(a.name) - place(b.name))
    for (const column of this.columns) {
      column.inputs = this.inputs(column)
      const label = element("label", { class: "label", for: column.inputs[0].id }, spoken(column.name))
      const field = element("div", { class: `field ${column.kind}` }, label)
      if (column.kind === "range") {
        column.inputs[0].setAttribute("aria-label", `${spoken(column.name)} from`)
        column.inputs[1].setAttribute("aria-label", `${spoken(column.name)} to`)
        field.append(element("span", { class: "pair" }, column.inputs[0], "–", column.inputs[1]))
      } else field.append(...column.inputs)
      fields.append(field)
    }
  }

  inputs({ name, kind, whole }) {
    const about = { id: `where-${name}`, "aria-describedby": "where-problem" }
    if (kind === "truth") {
      const options = [["", "Any"], ["true", "Yes"], ["false", "No"]]
      return [element("select", about, ...options.map(([value, label]) => element("option", { value }, label)))]
    }
    if (kind === "range") {
      const number = { type: "text", inputmode: whole ? "numeric" : "decimal", "aria-describedby": "where-problem" }
      return [
        element("input", { ...number, id: about.id, placeholder: "min" }),
        element("input", { ...number, id: `${about.id}-to`, placeholder: "max" }),
      ]
    }
    if (kind === "integers") return [element("input", { ...about, inputmode: "numeric", placeholder: "any, or 3, 7" })]
    const list = name === "category" ? { list: "categories" } : {}
    return [element("input", { ...about, ...list, placeholder: name === "category" ? "any" : "any, or one | another" })]
  }

  /**
   * What the fields say, as JSON; "" without a filter. Digits are passed on as they are, as ids may exceed a double.
   *
   * @throws {Error} with `.inputs`, the fields to blame
   */
  get where() {
    const parts = []
    for (const { name, kind, whole, inputs } of this.columns) {
      const values = inputs.map((input) => input.value.trim())
      if (!values.some(Boolean)) continue
      const blame = (message) => Object.assign(new Error(message), { inputs })
      let value
      if (kind === "truth") value = values[0]
      else if (kind === "texts") {
        const texts = several(values[0], "|")
        if (!texts.length) continue
        value = JSON.stringify(texts.length === 1 ? texts[0] : texts)
      } else if (kind === "integers") {
        const numbers = several(values[0], /[,\s]+/)
        if (!numbers.every((number) => /^-?\d+$/.test(number))) throw blame(`${spoken(name)}: whole numbers, with commas between them.`)
        value = numbers.length === 1 ? numbers[0] : `[${numbers.join(", ")}]`
      } else {
        const number = whole ? /^-?\d+$/ : /^-?(\d+(\.\d*)?|\.\d+)$/
        const typed = values.map((text) => text.replace(",", "."))
        if (!typed.every((text) => text === "" || number.test(text))) throw blame(`${spoken(name)}: ${whole ? "a whole number" : "a number"}, such as 20.`)
        const [low, high] = typed.map((text) => (text === "" ? null : Number(text)))
        if (low !== null && high !== null && low > high) throw blame(`${spoken(name)}: ${low} is more than ${high}.`)
        value = `{${[low !== null && `"gte": ${low}`, high !== null && `"lte": ${high}`].filter(Boolean).join(", ")}}`
      }
      parts.push(`${JSON.stringify(name)}: ${value}`)
    }
    return parts.length ? `{${parts.join(", ")}}` : ""
  }

  /** What is typed, by column, as the page's address keeps it; a range as "10..50". */
  get typed() {
    const filled = this.columns.filter(({ inputs }) => inputs.some((input) => input.value.trim()))
    return Object.fromEntries(filled.map(({ name, inputs }) => [name, inputs.map((input) => input.value.trim()).join("..")]))
  }

  set typed(texts) {
    for (const { name, kind, inputs } of this.columns) {
      const values = kind === "range" ? (texts[name] ?? "").split("..") : [texts[name]]
      inputs.forEach((input, i) => (input.value = values[i] ?? ""))
    }
  }

  /** Mark the fields that a refusal is about, and no others. */
  mark(inputs) {
    for (const column of this.columns)
      for (const input of column.inputs) {
        if (inputs?.includes(input)) input.setAttribute("aria-invalid", "true")
        else input.removeAttribute("aria-invalid")
      }
  }

  /** The inputs of a column that a message or field of the server names. */
  named(text) {
    const column = this.columns.find(({ name }) => new RegExp(`(^|[^\\w])${name.replace(SPECIAL, "\\$&")}([^\\w]|$)`).test(text))
    return column?.inputs
  }
}
