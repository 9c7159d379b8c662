"use strict";
// The figures of all runs of a group that do not show metrics: distributions over features, and training curves.
const Features = (() => {
  const { escaped, rounded, short, hover, plot, redraw, saveCsv } = Report;
  const { logarithmic } = Figures;

  const controlsOf = (kind, group) => document.querySelector(`.controls[data-${kind}="${group.id}"]`);
  const middles = (edges) => edges.slice(1).map((edge, i) => (edge + edges[i]) / 2);
  const called = (group, row) => {
    const coefficient = group.runs.coefficient[row];
    return coefficient === null ? group.runs.name[row] : `coefficient ${short(coefficient)}`;
  };

  function fill(select, entries) {
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  }

  function distributions(group) {
    const controls = controlsOf("distributions", group);
    if (!controls) return () => {};
    const [what, variant, slider, log] = ["array", "variant", "run", "log"].map((n) => controls.querySelector(`[data-${n}]`));
    const id = `${group.id}-distributions-plot`;
    const note = document.getElementById(`${group.id}-distributions-note`);
    fill(variant, Object.keys(group.styles).map((label) => [label, label]));
    const rowsOf = () => group.runs.label.flatMap((label, row) =>
      label === variant.value && group.features.histograms[what.value].counts[row] ? [row] : []);

    function figure() {
      const shown = group.features.histograms[what.value];
      const rows = rowsOf();
      const chosen = rows[Number(slider.value)];
      const [colour] = group.styles[variant.value];
      const x = middles(shown.edges).map((m) => (shown.logarithmic ? rounded(10 ** m) : m));
      const trace = (row) => {
        const counts = shown.counts[row];
        const total = counts.reduce((a, b) => a + b, shown.left_out[row]);
        return {
          type: "scatter", mode: "lines", x, y: counts.map((count) => count / total), showlegend: false,
          opacity: row === chosen ? 1 : 0.25, name: escaped(group.runs.name[row]),
          line: { color: colour, shape: shown.logarithmic ? "linear" : "hvh", width: row === chosen ? 2.5 : 1 },
          hovertemplate: `${escaped(group.runs.name[row])}<br>%{x:${hover}}: %{y:.2%}<extra></extra>`,
        };
      };
      const others = rows.filter((row) => row !== chosen);
      return {
        data: [...others, ...(chosen === undefined ? [] : [chosen])].map(trace),
        layout: {
          xaxis: { title: { text: `${shown.title} (${shown.unit})` }, type: shown.logarithmic ? "log" : "linear" },
          yaxis: {
            title: { text: "fraction of features" }, tickformat: ".1~%", type: log.checked ? "log" : "linear",
            rangemode: log.checked ? "normal" : "tozero",
          },
        },
      };
    }

    function update() {
      const rows = rowsOf();
      slider.max = Math.max(0, rows.length - 1);
      const row = rows[Number(slider.value)];
      slider.nextElementSibling.textContent = row === undefined ? "none" : called(group, row);
      slider.setAttribute("aria-valuetext", slider.nextElementSibling.textContent);
      const shown = group.features.histograms[what.value];
      const negative = group.runs.metrics.bias_negative_fraction?.value[row];
      note.textContent = row === undefined ? "The page has no histograms of this variant." : [
        group.runs.name[row] + ".",
        shown.left_out[row] ? `${shown.left_out[row]} features have no value and are not drawn.` : "",
        what.value === "bias" && typeof negative === "number" ? `${short(100 * negative)} % of biases are negative.` : "",
      ].join(" ");
      redraw(id);
    }

    for (const control of [what, variant, slider, log]) control.addEventListener("input", update);
    controls.querySelector("[data-figure-csv]").addEventListener("click", () => {
      const { edges, counts, left_out: left } = group.features.histograms[what.value];
      saveCsv(`${what.value}.csv`, [
        ["run", "variant", "without_value", ...edges.slice(0, -1).map((edge) => `from ${short(edge)}`)],
        ...Object.entries(counts).map(([row, own]) => [group.runs.name[row], group.runs.label[row], left[row], ...own]),
      ]);
    });
    plot(id, figure);
    update();
    return () => {
      const run = Choice.runs.findLast((one) => one.group === group)?.row;
      const wanted = run === undefined ? [...Choice.labels].at(-1) : group.runs.label[run];
      if (!(wanted in group.styles)) return;
      variant.value = wanted;
      if (run !== undefined) slider.max = rowsOf().length, slider.value = Math.max(0, rowsOf().indexOf(run));
      update();
    };
  }

  // The vertical axis of training curves. Its range ignores the first tenth of the steps, whose values are far off.
  function axisOf(title, curves, log) {
    const late = curves.flatMap((y) => y.slice(Math.ceil(y.length / 10))).filter((value) => value !== null);
    const [low, high] = [Math.min(...late), Math.max(...late)];
    const pad = 0.05 * (high - low) || 0.05 * Math.abs(high) || 0.05;
    return { title: { text: title }, ...(log ? logarithmic(curves.flat()) : { range: [low - pad, high + pad] }) };
  }

  // The training curves of all runs, with the chosen variants drawn on top.
  function training(group, logged) {
    const controls = controlsOf("training", group);
    if (!controls) return () => {};
    const [what, log] = ["curve", "log"].map((n) => controls.querySelector(`[data-${n}]`));
    const id = `${group.id}-training-plot`;
    const rowsOf = () => Object.keys(group.features.training).map(Number)
      .filter((row) => group.features.training[row][what.value]);

    function figure() {
      const seen = new Set();
      const rows = rowsOf().sort((a, b) => Choice.stands(group.runs.label[a]) - Choice.stands(group.runs.label[b]));
      return {
        data: rows.map((row) => {
          const label = group.runs.label[row];
          const [color, , dash] = group.styles[label];
          const { step, [what.value]: y } = group.features.training[row];
          const ringed = Choice.has({ group, row });
          const first = !seen.has(label) && seen.add(label);
          return {
            type: "scatter", mode: "lines", x: step, y, name: escaped(label), legendgroup: label, customdata: step.map(() => row),
            showlegend: Boolean(first), line: { color, dash, width: ringed ? 4 : 1.5 }, opacity: Choice.strength(label),
            hovertemplate: `${escaped(group.runs.name[row])}<br>step %{x}: %{y:${hover}}<extra></extra>`,
          };
        }),
        layout: {
          xaxis: { title: { text: "step" }, rangemode: "tozero" },
          yaxis: axisOf(logged[what.value], rows.map((row) => group.features.training[row][what.value]), log.checked),
        },
      };
    }

    for (const control of [what, log]) control.addEventListener("input", () => redraw(id));
    controls.querySelector("[data-figure-csv]").addEventListener("click", () => saveCsv(`training-${what.value}.csv`, [
      ["run", "variant", "step", what.value],
      ...rowsOf().flatMap((row) => {
        const { step, [what.value]: y } = group.features.training[row];
        return step.map((at, i) => [group.runs.name[row], group.runs.label[row], at, y[i]]);
      }),
    ]));
    plot(id, figure, {
      onClick: (row, add) => Run.choose({ group, row }, add), onLegend: ({ legendgroup }, only) => Choice.variant(legendgroup, only),
    });
    return () => {};
  }

  return { views: [distributions, training], axisOf, middles, fill };
})();
