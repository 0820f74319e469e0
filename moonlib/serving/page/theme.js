// Dark or light: the system's choice until someone presses the switch, then theirs, kept in this browser.

const KEY = "theme"
const root = document.documentElement
const system = matchMedia("(prefers-color-scheme: dark)")

function kept() {
  try { return localStorage.getItem(KEY) } catch { return null } // storage may be forbidden
}

function show(theme) {
  if (theme === "dark" || theme === "light") root.dataset.theme = theme
  else delete root.dataset.theme
}

/** Whether the page is dark now. */
const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark"

show(kept())

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme")
  const describe = () => button.setAttribute("aria-pressed", String(dark()))
  button.addEventListener("click", () => {
    const theme = dark() ? "light" : "dark"
    show(theme)
    try { localStorage.setItem(KEY, theme) } catch { /* it lasts as long as the page */ }
    describe()
  })
  system.addEventListener("change", describe)
  describe()
})
