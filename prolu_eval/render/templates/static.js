// Draws every figure in the requested size, and returns pairs [name, data URL].
(async () => {
  const { kind, width, height, scale, size, font } = {{ asked|embedded }};
  const { groups } = Page;
  const images = [];

  // Draw a figure as an image with a name; `title` is written above a figure of a single variant or run.
  async function draw(id, name, title) {
    const { data, layout } = Report.figure(id);
    const sized = (part) => ({ ...part, font: { ...part?.font, family: font, size } });
    layout.font = { ...layout.font, family: font, size };
    layout.annotations = (layout.annotations ?? []).map(sized);
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      layout[axis] = { ...layout[axis], title: sized(layout[axis].title), tickfont: { family: font, size } };
    }
    const rows = layout.grid?.rows ?? 1;
    const size_ = { width, height: Math.round(height * (rows === 1 ? 1 : 0.55 * rows + 0.2)) };
    layout.margin = { l: size, r: size, t: (title ? 3 : 1) * size, b: 2 * size };
    if (title) {
      layout.title = {
        text: Report.escaped(title), x: 0, xref: "paper", xanchor: "left", y: 1, yref: "container", yanchor: "top",
        pad: { t: size / 2 }, font: { family: font, size },
      };
    }
    Object.assign(layout, { autosize: false, ...size_ });
    // Without legend groups, Plotly fills the lines of a horizontal legend.
    const traces = data.map(({ legendgroup, ...trace }) => ({
      ...trace, ...(trace.marker ? { marker: { ...trace.marker, size: Math.min(trace.marker.size, 0.65 * size) } } : {}),
    }));
    images.push([name, await Plotly.toImage({ data: traces, layout }, { format: kind, ...size_, scale })]);
  }

  for (const group of groups) {
    const name = (...parts) => [...(groups.length > 1 ? [group.title] : []), ...parts].join("-");
    for (const view of group.views) await draw(`${group.id}-${view.id}-plot`, name(view.id));
    for (const element of document.querySelectorAll(`#${group.id}-training-plot`)) await draw(element.id, name("training"));
    const what = document.querySelector(`.controls[data-distributions="${group.id}"] [data-array]`);
    for (const label of what ? Object.keys(group.styles) : []) {
      Choice.set([label]);
      await draw(`${group.id}-distributions-plot`, name(what.value, label), label);
    }
    for (const row of group.best) {
      Choice.set([], [{ group, row }]);
      for (const view of Run.figures().filter((each) => each !== "histogram")) await draw(`run-${view}-plot`, name(`run_${view}`, group.runs.name[row]), group.runs.name[row]);
    }
    Choice.set();
  }
  return images;
})();
