// Runs before anything is drawn: the chosen theme, so that a dark page does not flash.
try {
  const theme = JSON.parse(localStorage.getItem("newleaf.settings") || "{}").theme;
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // A browser that keeps nothing: its own preference holds.
}
