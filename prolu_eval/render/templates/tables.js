"use strict";
// Tables that are sorted by a click on a column's head.
const Tables = (() => {
  // A click changes `sort` { column, down } in place and calls `onSort`; the columns `others` cannot be sorted by.
  function head(table, columns, sort, onSort, others = []) {
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
    plainHead(table, others, row);
  }

  function plainHead(table, titles, row = document.createElement("tr")) {
    for (const title of titles) {
      const cell = document.createElement(title ? "th" : "td");
      if (title) cell.scope = "col";
      cell.textContent = title;
      row.append(cell);
    }
    table.tHead.replaceChildren(row);
  }

  function mark(row, { column, down }) {
    [...row.cells].forEach((cell, i) => {
      if (i === column) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }

  const missing = (value) => value === null || value === undefined || Number.isNaN(value);

  // Rows in order of their values; undefined values come last in both directions.
  function sorted(rows, values, down) {
    return rows.toSorted((a, b) => {
      const [left, right] = [values[a], values[b]];
      if (missing(left) || missing(right)) return missing(left) - missing(right);
      const order = typeof left === "string" ? left.localeCompare(right) : left - right;
      return down ? -order : order;
    });
  }

  // Rows of cells { text, numeric, heading, swatch, check, onClick, value }.
  function body(table, rows) {
    const inside = () => [...table.tBodies[0].querySelectorAll("button, input")];
    const focused = inside().indexOf(document.activeElement);
    table.tBodies[0].replaceChildren(...rows.map((cells) => {
      const row = document.createElement("tr");
      for (const { text, numeric, heading, swatch, check, onClick, value } of cells) {
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
        if (check) {
          const box = document.createElement("input");
          box.type = "checkbox";
          box.ariaLabel = check.label;
          box.checked = check.on;
          box.addEventListener("change", check.onChange);
          cell.append(box);
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
    inside()[focused]?.focus({ preventScroll: true });
  }

  return { head, plainHead, sorted, body };
})();
