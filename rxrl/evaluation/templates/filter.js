// Shows the items of a list that belong to everything chosen in the form before it. Without this script the form stays hidden.
for (const form of document.querySelectorAll("form.filter")) {
  const rows = [...document.getElementById(form.dataset.list).children];
  const show = () => {
    const chosen = [...form.querySelectorAll("select")].filter(each => each.value);
    const words = form.elements.words.value.trim().toLowerCase();
    for (const row of rows)
      row.hidden = !chosen.every(each => row.dataset[each.name].split(" ").includes(each.value)) || !row.textContent.toLowerCase().includes(words);
    form.querySelector("output").textContent = `${rows.filter(each => !each.hidden).length} of ${rows.length} shown`;
  };
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  show();
}
