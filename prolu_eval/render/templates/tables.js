"use strict";
// Tables that sort by a click on their heads.
const Tables = (() => {
  // `sort` { column, down } is changed in place, then `onSort` called.
  function head(table, columns, sort, onSort) {
    const row = document.createElement("tr");
    columns.forEach(({ title, numeric, about }, i) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      if (numeric) cell.className = "n";
      if (about) cell.title = about;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = title;
      button.addEventListener("click", () => {
        sort.down = sort.column === i && !sort.down;
        sort.column = i;
        mark(row, sort);
        onSort();
      });
      cell.append(button);
      row.append(cell);
    });
    mark(row, sort);
    table.tHead.replaceChildren(row);
  }

  function mark(row, { column, down }) {
    [...row.cells].forEach((cell, i) => {
      if (i === column) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }

  const missing = (value) => value === null || value === undefined || Number.isNaN(value);

  // Indices in order of their values; the undefined last, whichever way it goes.
  function sorted(rows, values, down) {
    return rows.toSorted((a, b) => {
      const [left, right] = [values[a], values[b]];
      if (missing(left) || missing(right)) return missing(left) - missing(right);
      const order = typeof left === "string" ? left.localeCompare(right) : left - right;
      return down ? -order : order;
    });
  }

  // Rows of cells { text, numeric, heading, swatch, onClick, value }.
  function body(table, rows) {
    table.tBodies[0].replaceChildren(...rows.map((cells) => {
      const row = document.createElement("tr");
      for (const { text, numeric, heading, swatch, onClick, value } of cells) {
        const cell = document.createElement(heading ? "th" : "td");
        if (heading) cell.scope = "row";
        if (numeric) cell.className = "n";
        if (value !== undefined) cell.dataset.value = value ?? "";
        if (swatch) {
          const mark = document.createElement("span");
          mark.className = "swatch";
          mark.style.background = swatch;
          cell.append(mark);
        }
        if (onClick) {
          const button = document.createElement("button");
          button.type = "button";
          button.className = "link";
          button.textContent = text;
          button.addEventListener("click", onClick);
          cell.append(button);
        } else cell.append(text);
        row.append(cell);
      }
      return row;
    }));
  }

  return { head, sorted, body };
})();
