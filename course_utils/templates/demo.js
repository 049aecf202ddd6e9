(root => {
  const { stops, pictures, words } = JSON.parse(root.querySelector("script[type]").textContent);
  const [slider, choice, image] = ["input", "select", "img"].map(tag => root.querySelector(tag));
  const show = () => {
    const shown = (choice ? choice.selectedIndex : 0) * stops.length + Number(slider.value);
    image.src = "data:image/webp;base64," + pictures[shown];
    image.alt = root.querySelector("[role=status]").textContent = words[shown];
    root.querySelector("label span").textContent = stops[slider.value];
    slider.setAttribute("aria-valuetext", stops[slider.value]);
  };
  root.addEventListener("input", show);
  // Keys that move the slider must not turn a page of slides as well
  root.addEventListener("keydown", event => event.stopPropagation());
  root.querySelector("[hidden]").hidden = false;
  show();
})(document.currentScript.parentElement);
