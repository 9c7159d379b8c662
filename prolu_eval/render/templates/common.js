"use strict";
// What every page with figures needs: drawing in the page's colours, and files to download.
const Report = (() => {
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const narrow = () => window.innerWidth < 640;
  // Plotly interprets some HTML in texts, so names are escaped.
  const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  // Numbers have as many digits as in the package's other output, both in texts and in Plotly's hover texts.
  const digits = Number(document.documentElement.dataset.digits);
  const rounded = (value) => Number(value.toPrecision(digits));
  const short = (value) => (value === null || value === undefined ? "–" : rounded(value).toString());
  const hover = `.${digits}g`;

  function themed(layout) {
    const axis = {
      gridcolor: token("--rule"), zerolinecolor: token("--rule"), linecolor: token("--soft"), automargin: true,
    };
    return {
      legend: { orientation: "h", yanchor: "bottom", y: 1.02, x: 0 },
      margin: { l: 56, r: 16, t: 24, b: 48 },
      hovermode: "closest",
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: narrow() ? 11 : 13, color: token("--ink") },
      hoverlabel: { bgcolor: token("--wash"), bordercolor: token("--rule"), font: { color: token("--ink") } },
      ...Object.fromEntries(Object.entries({ xaxis: {}, yaxis: {}, ...layout })
        .filter(([name]) => /^[xy]axis\d*$/.test(name)).map(([name, own]) => [name, { ...axis, ...own }])),
    };
  }

  const buttons = [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
  const config = () => ({
    responsive: true, displaylogo: false, modeBarButtons: buttons, displayModeBar: narrow() ? false : "hover",
  });
  const builders = new Map(); // id of a plot -> the function that makes its figure
  const visible = new Set(); // ids of plots on screen or near it
  const stale = new Set();

  // The current figure of a plot, in the page's colours.
  function figure(id) {
    const { data, layout } = builders.get(id)();
    return { data, layout: themed(layout) };
  }

  function draw(id) {
    stale.delete(id);
    const { data, layout } = figure(id);
    return Plotly.react(id, data, layout, config());
  }

  // Figures near the screen are drawn one after another from the top, each in a task of its own, so that the browser
  // shows the first one before the others are made.
  let drawing = false;
  function drawNext() {
    const next = [...builders.keys()].find((id) => stale.has(id) && visible.has(id));
    drawing = next !== undefined;
    if (!drawing) return;
    setTimeout(drawNext);
    draw(next);
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) visible.add(target.id); else visible.delete(target.id);
    }
    if (!drawing) drawNext();
  }, { rootMargin: "300px" });

  // A plot is drawn when it comes near the screen, and again when `redraw` is called for it. `onClick` gets a point's
  // `customdata`, and whether to add it to those chosen; `onLegend` gets a trace, and whether to show only that one.
  function plot(id, build, { onClick, onLegend } = {}) {
    builders.set(id, build);
    stale.add(id);
    const element = document.getElementById(id);
    watcher.observe(element);
    const observer = new MutationObserver(() => {
      if (!element.on) return;
      observer.disconnect();
      if (onClick) element.on("plotly_click", ({ points, event }) => onClick(points[0].customdata, event.shiftKey));
      for (const [name, only] of onLegend ? [["plotly_legendclick", false], ["plotly_legenddoubleclick", true]] : []) {
        element.on(name, ({ data, curveNumber }) => { onLegend(data[curveNumber], only); return false; });
      }
    });
    if (onClick || onLegend) observer.observe(element, { childList: true });
  }

  function redraw(...ids) {
    for (const id of ids.length ? ids : builders.keys()) {
      stale.add(id);
      if (visible.has(id)) draw(id);
    }
  }

  // Draw all figures that are laid out; one that is drawn while hidden would keep a wrong size.
  const drawAll = () => Promise.all([...stale].filter((id) => document.getElementById(id).offsetParent !== null).map(draw));
  scheme.addEventListener("change", () => redraw());

  // For printing, give all figures the width of the paper, which the style of `printing` sets.
  function forPaper(on) {
    document.documentElement.classList.toggle("printing", on);
    for (const id of builders.keys()) {
      const element = document.getElementById(id);
      if (element.offsetParent === null) continue;
      if (stale.has(id)) draw(id);
      const { clientWidth: width, clientHeight: height } = element;
      Plotly.relayout(element, on ? { width, height } : { width: null, height: null, autosize: true });
    }
  }
  window.addEventListener("beforeprint", () => forPaper(true));
  window.addEventListener("afterprint", () => forPaper(false));

  function save(name, type, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function saveCsv(name, rows) {
    const cell = (value) => {
      const text = value === null || value === undefined ? "" : String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    save(name, "text/csv", rows.map((row) => row.map(cell).join(",")).join("\n") + "\n");
  }

  // Save the points of a figure's traces as they are drawn.
  function plotCsv(id, name) {
    const rows = builders.get(id)().data.flatMap(({ name: trace, x, y }) => x.map((value, i) => [trace, value, y[i]]));
    saveCsv(name, [["line", "x", "y"], ...rows]);
  }

  // Figures that are complete in the page, with switches for the scales of their axes.
  for (const source of document.querySelectorAll("script[data-plot]")) {
    const id = source.dataset.plot;
    const figure = JSON.parse(source.textContent);
    plot(id, () => figure);
    document.querySelector(`.controls[data-for="${id}"]`)?.addEventListener("change", ({ target }) => {
      figure.layout[target.dataset.axis].type = target.checked ? "log" : "linear";
      redraw(id);
    });
  }

  return { escaped, rounded, short, hover, token, narrow, plot, figure, redraw, drawAll, saveCsv, plotCsv };
})();
