"use strict";
// Views of single features: distributions, training histories, response curves, tables.
const Features = (() => {
  const { escaped, token, plot, redraw, saveCsv } = Report;
  const { short } = Figures;

  const controlsOf = (kind, group) => document.querySelector(`.controls[data-${kind}="${group.id}"]`);
  const middles = (edges) => edges.slice(1).map((edge, i) => Number(((edge + edges[i]) / 2).toPrecision(6)));
  const called = (group, row) => {
    const coefficient = group.runs.coefficient[row];
    return coefficient === null ? group.runs.name[row] : `coefficient ${short(coefficient)}`;
  };

  function fill(select, entries) {
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  }

  // A select of the runs whose details are on the page; follows the run chosen elsewhere.
  function runSelect(group, select, details, onChange) {
    const rows = Object.keys(details).map(Number).sort((a, b) => a - b);
    fill(select, rows.map((row) => [row, group.runs.name[row]]));
    select.addEventListener("change", onChange);
    return (row) => {
      if (row !== null && rows.includes(row)) {
        select.value = row;
        onChange();
      }
    };
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
      const x = middles(shown.edges).map((m) => (shown.logarithmic ? Number((10 ** m).toPrecision(4)) : m));
      const trace = (row) => {
        const counts = shown.counts[row];
        const total = counts.reduce((a, b) => a + b, shown.left_out[row]);
        return {
          type: "scatter", mode: "lines", x, y: counts.map((count) => count / total), showlegend: false,
          opacity: row === chosen ? 1 : 0.25, name: escaped(group.runs.name[row]),
          line: { color: colour, shape: shown.logarithmic ? "linear" : "hvh", width: row === chosen ? 2.5 : 1 },
          hovertemplate: `${escaped(group.runs.name[row])}<br>%{x:.3g}: %{y:.2%}<extra></extra>`,
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
      note.textContent = row === undefined ? "This variant has none." : [
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
        ...counts.flatMap((own, row) => (own ? [[group.runs.name[row], group.runs.label[row], left[row], ...own]] : [])),
      ]);
    });
    plot(id, figure);
    update();
    return ({ label, run }) => {
      const wanted = run === null ? label : group.runs.label[run];
      if (wanted === null || !(wanted in group.styles)) return;
      variant.value = wanted;
      if (run !== null) slider.max = rowsOf().length, slider.value = Math.max(0, rowsOf().indexOf(run));
      update();
    };
  }

  function training(group) {
    const controls = controlsOf("training", group);
    if (!controls) return () => {};
    const select = controls.querySelector("[data-run]");
    const slider = controls.querySelector("[data-step]");
    const id = `${group.id}-training-plot`;
    const history = () => group.features.histories[select.value];

    function figure() {
      const { edges, counts, steps } = history();
      const [colour] = group.styles[group.runs.label[Number(select.value)]];
      const x = middles(edges);
      const share = (own) => { const total = own.reduce((a, b) => a + b, 0); return own.map((count) => count / total); };
      const at = Number(slider.value);
      const top = Math.max(...share(counts[at]), ...share(counts.at(-1)));
      const line = (i, name, style) => ({
        type: "scatter", mode: "lines", x, y: share(counts[i]), name,
        line: { color: colour, shape: "hvh", ...style },
        hovertemplate: `step ${steps[i]}<br>%{x:.3g}: %{y:.2%}<extra></extra>`,
      });
      return {
        data: [
          line(steps.length - 1, `last step, ${steps.at(-1)}`, { dash: "dot", width: 1 }),
          line(at, `step ${steps[at]}`, { width: 2.5 }),
        ],
        layout: {
          xaxis: { title: { text: "encoder bias (training units)" } },
          yaxis: { title: { text: "fraction of features" }, tickformat: ".1~%", range: [0, 1.05 * top] },
        },
      };
    }

    function update() {
      slider.max = history().steps.length - 1;
      slider.nextElementSibling.textContent = `step ${history().steps[Number(slider.value)]}`;
      slider.setAttribute("aria-valuetext", slider.nextElementSibling.textContent);
      redraw(id);
    }

    const follow = runSelect(group, select, group.features.histories, update);
    slider.value = slider.max = history().steps.length - 1;
    slider.addEventListener("input", update);
    controls.querySelector("[data-figure-csv]").addEventListener("click", () => {
      const { edges, counts, steps } = history();
      saveCsv("biases-in-training.csv", [["step", ...middles(edges)], ...counts.map((own, i) => [steps[i], ...own])]);
    });
    plot(id, figure);
    update();
    return ({ run }) => follow(run);
  }

  function curves(group) {
    const controls = controlsOf("curves", group);
    if (!controls) return () => {};
    const select = controls.querySelector("[data-run]");
    const id = `${group.id}-curves-plot`;
    const found = () => group.features.curves[select.value];

    function figure() {
      const { features, scales, responses } = found();
      const [colour] = group.styles[group.runs.label[Number(select.value)]];
      return {
        data: [
          {
            type: "scatter", mode: "lines", x: [0, scales.at(-1)], y: [0, scales.at(-1)], hoverinfo: "skip",
            name: "through the origin", line: { color: token("--soft"), dash: "dash", width: 1 },
          },
          ...features.map((feature, i) => ({
            type: "scatter", mode: "lines", x: scales, y: responses[i], name: `feature ${feature}`, showlegend: false,
            line: { color: colour, width: 1.5 }, opacity: 1 - 0.09 * i,
            hovertemplate: `feature ${feature}<br>scale %{x}: %{y:.3g}<extra></extra>`,
          })),
        ],
        layout: {
          xaxis: { title: { text: "scale of the input" } },
          yaxis: { title: { text: "activation, relative" }, rangemode: "tozero" },
        },
      };
    }

    const follow = runSelect(group, select, group.features.curves, () => redraw(id));
    controls.querySelector("[data-figure-csv]").addEventListener("click", () => {
      const { features, scales, responses } = found();
      saveCsv("response-curves.csv", [["feature", ...scales], ...responses.map((own, i) => [features[i], ...own])]);
    });
    plot(id, figure);
    return ({ run }) => follow(run);
  }

  function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }

  const TITLES = {
    feature: "feature", firing_rate: "firing rate", mean_when_active: "mean when active", max: "largest",
    bias: "bias", effective_threshold: "effective threshold", alignment: "alignment",
  };

  function table(group) {
    const controls = controlsOf("features", group);
    if (!controls) return () => {};
    const [select, find, more] = ["run", "find", "more"].map((name) => controls.querySelector(`[data-${name}]`));
    const element = document.getElementById(`${group.id}-features-table`);
    const count = element.closest("section").querySelector("[data-count]");
    let columns, limit, sort;

    function load() {
      const packed = group.features.tables[select.value];
      const arrays = Object.keys(TITLES).filter((name) => name in packed).map((name) => [name, unpacked(packed[name])]);
      columns = [["feature", Float32Array.from(arrays[0][1], (_, i) => i)], ...arrays];
      const rate = columns.findIndex(([name]) => name === "firing_rate");
      sort = { column: Math.max(0, rate), down: rate >= 0 };
      Tables.head(element, columns.map(([name]) => ({ title: TITLES[name], numeric: true })), sort, () => update(100));
      update(100);
    }

    function matching() {
      const wanted = find.value.trim().toLowerCase();
      const rate = columns.find(([name]) => name === "firing_rate")?.[1];
      const rows = [...columns[0][1].keys()];
      if (wanted === "dead") return rows.filter((i) => rate?.[i] === 0);
      if (wanted === "dense") return rows.filter((i) => rate?.[i] > 0.1);
      return wanted === "" ? rows : rows.filter((i) => String(i) === wanted);
    }

    function update(newLimit = limit) {
      limit = newLimit;
      const rows = Tables.sorted(matching(), columns[sort.column][1], sort.down);
      const cell = (value, name) => (Number.isNaN(value) ? "–" : name === "feature" ? String(value) : short(value));
      Tables.body(element, rows.slice(0, limit).map((i) => columns.map(([name, values]) => ({ text: cell(values[i], name), numeric: true }))));
      count.textContent = `${Math.min(limit, rows.length)} of ${rows.length} features`;
      more.hidden = rows.length <= limit;
    }

    const follow = runSelect(group, select, group.features.tables, load);
    find.addEventListener("input", () => update(100));
    more.addEventListener("click", () => update(limit + 100));
    controls.querySelector("[data-features-csv]").addEventListener("click", () => saveCsv("features.csv", [
      columns.map(([name]) => name),
      ...matching().map((i) => columns.map(([, values]) => (Number.isNaN(values[i]) ? null : values[i]))),
    ]));
    load();
    return ({ run }) => follow(run);
  }

  return { views: [distributions, training, curves, table] };
})();
