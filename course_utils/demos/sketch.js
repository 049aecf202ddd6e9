// A square to draw on. The drawing is SIDE x SIDE bytes of ink, the opacity of white, sent with every move of the pen.
const SIDE = 84, PEN = 4.2, STEP = 3;

const element = (name, text, props) => Object.assign(document.createElement(name), { textContent: text, ...props });

export default {
  render({ model, el }) {
    const canvas = element("canvas", "", { width: SIDE, height: SIDE, tabIndex: 0 });
    const help = "Drawing area. Arrow keys move the pen, space puts it down or lifts it, Delete clears the drawing.";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", help);
    canvas.style.cssText = "width:224px;height:224px;background:#000;touch-action:none;cursor:crosshair;border:1px solid #767676";
    const status = element("div", "", { className: "sketch-status" });
    status.setAttribute("role", "status");
    const clear = element("button", "clear", { type: "button", className: "jupyter-button widget-button", title: "clear the drawing" });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    Object.assign(pen, { lineWidth: 2 * PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
    const at = { x: SIDE / 2, y: SIDE / 2 };
    let down = false, mine = null;

    const send = () => {
      const { data } = pen.getImageData(0, 0, SIDE, SIDE);
      mine = Uint8Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i + 3]);
      model.set("value", new DataView(mine.some(Boolean) ? mine.buffer : new ArrayBuffer(0)));
      model.save_changes();
    };
    const lineTo = (x, y) => {
      pen.beginPath();
      pen.moveTo(at.x, at.y);
      Object.assign(at, { x, y });
      pen.lineTo(x, y);
      pen.stroke();
      send();
    };
    const wipe = () => pen.clearRect(0, 0, SIDE, SIDE);
    const show = () => {
      const value = model.get("value");
      const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
      if (mine && bytes.length === mine.length && bytes.every((level, i) => level === mine[i])) return;
      wipe();
      if (!bytes.length) return;
      const image = pen.createImageData(SIDE, SIDE);
      bytes.forEach((level, i) => image.data.set([255, 255, 255, level], 4 * i));
      pen.putImageData(image, 0, 0);
    };
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      const [x, y] = place(event);
      Object.assign(at, { x, y });
      lineTo(x, y);
    });
    canvas.addEventListener("pointermove", (event) => canvas.hasPointerCapture(event.pointerId) && lineTo(...place(event)));
    const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    canvas.addEventListener("keydown", (event) => {
      const inside = (value) => Math.min(SIDE, Math.max(0, value));
      if (event.key in ARROWS) {
        const [x, y] = [inside(at.x + ARROWS[event.key][0]), inside(at.y + ARROWS[event.key][1])];
        down ? lineTo(x, y) : Object.assign(at, { x, y });
      } else if (event.key === " ") {
        down = !down;
        if (down) lineTo(at.x, at.y);
      } else if (event.key === "Delete" || event.key === "Backspace") {
        wipe();
        send();
      } else return;
      event.preventDefault();
      event.stopPropagation(); // the notebook has its own meaning for these keys
      status.textContent = `Pen ${down ? "down" : "up"}, column ${Math.round(at.x / STEP)}, row ${Math.round(at.y / STEP)}`;
    });
    clear.addEventListener("click", () => { wipe(); send(); });
    model.on("change:value", show);
    show();
    el.append(canvas, status, clear);
  },
};
