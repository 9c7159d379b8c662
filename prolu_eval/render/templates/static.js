// Draws every figure in the size asked for, and leaves the images in the page for the browser to print.
addEventListener("load", async () => {
  const { kind, width, height, scale, size } = {{ asked|embedded }};
  await Report.drawAll();
  const images = {};
  for (const plot of document.querySelectorAll(".plot")) {
    const layout = { ...plot.layout, font: { ...plot.layout.font, size }, autosize: false, width, height };
    layout.annotations = (layout.annotations ?? []).map((note) => ({ ...note, font: { ...note.font, size } }));
    for (const axis of ["xaxis", "yaxis"]) {
      layout[axis] = { ...layout[axis], title: { ...layout[axis].title, font: { size } }, tickfont: { size } };
    }
    images[plot.id] = await Plotly.toImage({ data: plot.data, layout }, { format: kind, width, height, scale });
  }
  const output = document.createElement("script");
  output.type = "application/json";
  output.id = "images";
  output.textContent = btoa(JSON.stringify(images));
  document.body.replaceChildren(output);
});
