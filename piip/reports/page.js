// A click on a heading sorts the trials by it: figures from the best down first, words from A to Z; what is missing stays last.
for (const table of document.querySelectorAll(".trials")) {
  const headings = [...table.querySelectorAll("th")];
  for (const [column, heading] of headings.entries()) {
    heading.querySelector("button").addEventListener("click", () => {
      const isFigure = heading.classList.contains("figure");
      const before = heading.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : isFigure && !("low" in heading.dataset);
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => (isFigure ? a - b : a.localeCompare(b, undefined, { numeric: true }));
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [left, right] = [key(a), key(b)];
        if (left === "" || right === "") return (left === "") - (right === "");
        return descending ? compare(right, left) : compare(left, right);
      });
      table.tBodies[0].append(...rows);
    });
  }
}

// A click on a picture makes it as wide as the page, another one small again.
for (const figure of document.querySelectorAll(".pictures figure")) {
  figure.addEventListener("click", () => figure.classList.toggle("large"));
}
