// The page's address keeps a search of words, or of a product, so that it can be shared; a photo stays on this device.

const PREFIX = "where."

/** What the address says. */
export function read() {
  const all = [...new URLSearchParams(location.search)]
  const { q = "", like = "", alias = "", beside = "" } = Object.fromEntries(all)
  const filters = all.filter(([name]) => name.startsWith(PREFIX)).map(([name, value]) => [name.slice(PREFIX.length), value])
  return { text: q, like, alias, beside, typed: Object.fromEntries(filters) }
}

/**
 * Write a search to the address, as a new entry of the history or in place of the present one.
 *
 * @param {object} query as `read` returns it
 * @param {boolean} anew
 * @param {unknown} state kept with the entry, in this browser only
 */
export function write({ text, like, alias, beside, typed }, anew, state) {
  const kept = [["q", text], ["like", like], ["alias", alias], ["beside", beside], ...Object.entries(typed).map(([name, value]) => [PREFIX + name, value])]
  const query = new URLSearchParams(kept.filter(([, value]) => value)).toString()
  const address = location.pathname + (query && `?${query}`)
  const same = address === location.pathname + location.search
  history[anew && !same ? "pushState" : "replaceState"](state, "", address)
}
