// Tables sort by a click on a heading (numbers as numbers) and filter as one types.
const number = text => { const found = text.replace(/,/g, "").match(/^[+-]?\d+(\.\d+)?(e[+-]?\d+)?/i); return found ? parseFloat(found[0]) : NaN; };
document.querySelectorAll("th button").forEach(button => button.addEventListener("click", () => {
  const th = button.parentElement, body = th.closest("table").tBodies[0], column = th.cellIndex;
  const down = th.getAttribute("aria-sort") === "ascending";
  th.parentElement.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
  const order = (a, b) => {
    const [x, y] = [a, b].map(row => row.cells[column].textContent.trim()), [m, n] = [number(x), number(y)];
    return (isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n) * (down ? -1 : 1);
  };
  [...body.rows].sort(order).forEach(row => body.append(row));
}));
document.querySelectorAll("input.filter").forEach(input => input.addEventListener("input", () => {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of input.nextElementSibling.querySelector("tbody").rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
}));
