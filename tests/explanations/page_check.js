// A small stand-in for a browser: runs the script of a page from `write_page` and presses every button.
const fs = require("fs");
const vm = require("vm");
const page = fs.readFileSync(process.argv[2], "utf8");
const script = page.split("<script>")[1].split("</script>")[0];
const make = () => ({
  style: {}, children: [], value: "60",
  setAttribute() {},
  append(...added) { this.children.push(...added); },
  replaceChildren(...added) { this.children = added; },
});
const elements = {}, listeners = {};
global.document = {
  getElementById(id) {
    if (!page.includes(`id="${id}"`)) throw Error(`the page has no #${id}`);
    return elements[id] ??= make();
  },
  createElement: make,
  addEventListener: (name, listener) => { listeners[name] = listener; },
};
vm.runInThisContext(script);
const press = (id, then) => {
  for (let i = 0; i < elements[id].children.length; i++) {
    elements[id].children[i].onclick();
    then();
  }
};
const shown = new Set();
press("images", () => press("views", () => press("stages", () => press("pairs", () => {
  if (!elements.legend.children.length) throw Error("there is no legend");
  shown.add(elements.map.src);
}))));
for (const key of ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "a"])
  listeners.keydown({ key, target: { type: "button" }, preventDefault() {} });
elements.opacity.oninput();
console.log(shown.size);
