"""The canvas of the page, on which a picture is shown and what is to be drawn anew is brushed.

It lives in the browser: the picture is cut to the model's size there, and is sent with a request,
never before. `window.courseCanvas` has read() -> {picture, mask} or null, and take(address).
"""

HTML = """
<h2>Change a picture</h2>
<p>Choose a file, or press "change this" under a drawing. Then say in the prompt what the
picture should show, and press Draw. Brush over a part, and only that part is drawn anew.</p>
<div class="tools">
  <label>File <input type="file" accept="image/png,image/jpeg,image/webp"></label>
  <label>Brush <input type="range" min="1" max="${width / 2}" value="${width / 8}"></label>
  <button type="button" class="wipe">Wipe strokes</button>
  <button type="button" class="empty">Remove picture</button>
</div>
<canvas width="${width}" height="${height}" aria-label="brush over what is to be drawn anew">
</canvas>
<p class="says"></p>
"""

CSS = """
canvas { width: 100%; max-width: 20rem; border: 1px solid gray; image-rendering: pixelated;
         touch-action: none; cursor: crosshair; display: block; }
h2 { font-size: 1rem; margin: 0; }
.tools { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: center; margin: 0.5rem 0; }
.tools label { display: flex; gap: 0.5rem; align-items: center; }
.tools input { max-width: 12rem; }
.tools input[type=range] { width: 6rem; }
.tools button { border: 1px solid gray; border-radius: 0.25rem; padding: 0 0.5rem;
                font: inherit; font-size: 0.875rem; }
"""

JS = r"""
const find = (name) => element.querySelector(name);
const shown = find('canvas'), says = find('.says');
const sheet = () => Object.assign(document.createElement('canvas'),
                                  {width: shown.width, height: shown.height});
const picture = sheet(), mask = sheet();
const context = (which) => which.getContext('2d', {willReadFrequently: true});
let full = false, brushed = false, last = null;

function draw() {
  const c = context(shown);
  c.globalAlpha = 1;
  c.clearRect(0, 0, shown.width, shown.height);
  c.drawImage(picture, 0, 0);
  c.globalAlpha = 0.6;
  c.drawImage(mask, 0, 0);
}

function wipe(which) {
  context(which).clearRect(0, 0, which.width, which.height);
}

function empty() {
  wipe(picture); wipe(mask);
  full = brushed = false;
  find('input[type=file]').value = '';
  says.textContent = '';
  draw();
}

function take(source, wide, high) {           // cut at the centre to the canvas's shape
  empty();
  const scale = Math.max(shown.width / wide, shown.height / high);
  const w = shown.width / scale, h = shown.height / scale;
  const c = context(picture);
  c.imageSmoothingQuality = 'high';
  c.drawImage(source, (wide - w) / 2, (high - h) / 2, w, h, 0, 0, shown.width, shown.height);
  full = true;
  draw();
}

function at(event) {
  const box = shown.getBoundingClientRect();
  return [(event.clientX - box.left) * shown.width / box.width,
          (event.clientY - box.top) * shown.height / box.height];
}

function stroke(event) {
  if (last === null || !full) return;
  const c = context(mask), now = at(event);
  c.strokeStyle = 'red';
  c.lineCap = 'round';
  c.lineWidth = Number(find('input[type=range]').value);
  c.beginPath();
  c.moveTo(...last);
  c.lineTo(...now);
  c.stroke();
  last = now;
  brushed = true;
  draw();
}

function bright() {                           // the mask, white wherever the brush has been
  const copy = sheet(), c = context(copy);
  const data = context(mask).getImageData(0, 0, copy.width, copy.height);
  for (let i = 0; i < data.data.length; i += 4)
    data.data.set(data.data[i + 3] > 127 ? [255, 255, 255, 255] : [0, 0, 0, 255], i);
  c.putImageData(data, 0, 0);
  return copy.toDataURL('image/png');
}

shown.addEventListener('pointerdown', (event) => {
  shown.setPointerCapture(event.pointerId);
  last = at(event);
  stroke(event);
});
shown.addEventListener('pointermove', stroke);
shown.addEventListener('pointerup', () => { last = null; });
find('.wipe').addEventListener('click', () => { wipe(mask); brushed = false; draw(); });
find('.empty').addEventListener('click', empty);
find('input[type=file]').addEventListener('change', async (event) => {
  const file = event.target.files[0];
  if (!file) return;
  try {
    const image = await createImageBitmap(file);
    take(image, image.width, image.height);
  } catch (error) {
    empty();
    says.textContent = 'This file is no picture that your browser can read.';
  }
});
window.courseCanvas = {
  read: () => full ? {picture: picture.toDataURL('image/png'),
                      mask: brushed ? bright() : null} : null,
  take: async (address) => {
    const image = new Image();
    image.src = address;
    await image.decode();
    take(image, image.width, image.height);
    shown.scrollIntoView({block: 'nearest', behavior: 'smooth'});
  },
};
"""
