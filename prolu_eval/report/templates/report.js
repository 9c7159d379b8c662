"use strict";
(() => {
  const read = (element) => JSON.parse(element.textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const narrow = () => window.innerWidth < 640;

  function themed(layout) {
    const axis = { gridcolor: token("--rule"), zerolinecolor: token("--rule"), linecolor: token("--soft") };
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: narrow() ? 11 : 13, color: token("--ink") },
      hoverlabel: { bgcolor: token("--wash"), bordercolor: token("--rule"), font: { color: token("--ink") } },
      xaxis: { ...axis, ...layout.xaxis },
      yaxis: { ...axis, ...layout.yaxis },
    };
  }

  const plots = new Map(); // id -> figure, as last drawn
  function draw(id, figure) {
    plots.set(id, figure);
    const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
    return Plotly.react(id, figure.data, themed(figure.layout), config);
  }

  for (const source of document.querySelectorAll("script[data-plot]")) draw(source.dataset.plot, read(source));
  for (const source of document.querySelectorAll("script[data-choices]")) {
    const choices = read(source);
    const id = source.dataset.choices;
    const select = document.querySelector(`select[data-biases="${id}"]`);
    draw(id, choices[0]);
    select.addEventListener("change", () => draw(id, choices[Number(select.value)]));
  }
  dark.addEventListener("change", () => plots.forEach((figure, id) => draw(id, figure)));

  for (const controls of document.querySelectorAll(".controls[data-for]")) {
    const id = controls.dataset.for;
    controls.addEventListener("change", (event) => {
      const figure = plots.get(id);
      const { axis } = event.target.dataset;
      if (axis) figure.layout[axis].type = event.target.checked ? "log" : "linear";
      if ("bars" in event.target.dataset) {
        for (const trace of figure.data)
          for (const bar of [trace.error_x, trace.error_y]) if (bar) bar.visible = event.target.checked;
      }
      draw(id, figure);
    });
  }

  const value = (cell) => cell.dataset.value ?? cell.textContent.trim();
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = head.classList.contains("n");
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [left, right] = [value(a.cells[column]), value(b.cells[column])];
        if (left === "" || right === "") return (left === "") - (right === ""); // the undefined last
        const order = numeric ? left - right : left.localeCompare(right);
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    }));
  }

  for (const input of document.querySelectorAll("input[data-filter]")) {
    const rows = [...document.getElementById(input.dataset.filter).tBodies[0].rows];
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  }

  for (const button of document.querySelectorAll("button[data-csv]")) {
    button.addEventListener("click", () => {
      const table = document.getElementById(button.dataset.csv);
      const quote = (text) => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
      const lines = [...table.rows].map((row) => [...row.cells].map((cell) => quote(value(cell))).join(","));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
      link.download = "runs.csv";
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
})();
