// The model is in this page: ONNX Runtime computes it in the browser, and no image leaves it.
ort.env.wasm.wasmPaths = new URL("./", location.href).href;
ort.env.wasm.numThreads = 1;
const session = ort.InferenceSession.create("model.onnx");

async function ask(asked) {
  let bitmap;
  try { bitmap = await createImageBitmap(asked); } catch { throw Error(`${asked.name} is no image that this browser reads`); }
  const ready = await session;  // what the page waits for once is no time of the image
  const start = performance.now();
  const [height, width] = model.preprocessing.image_size;
  const x = new ort.Tensor("float32", prepare(bitmap, height, width), [1, 3, height, width]);
  const { logits } = await ready.run({ images: x });
  const surest = Math.max(...logits.data), odds = Array.from(logits.data, (y) => Math.exp(y - surest));
  const total = odds.reduce((sum, y) => sum + y, 0);
  const lines = odds.map((y, i) => ({ name: model.names[i], value: y / total }));
  lines.sort((a, b) => b.value - a.value);
  if (result) URL.revokeObjectURL(result.address);
  return {
    summary: lines[0].name, lines: lines.slice(0, 5), colours: {}, drawn: false, pairs: [], seen: "",
    seconds: { prediction: (performance.now() - start) / 1000 }, address: URL.createObjectURL(asked),
  };
}

const addressOf = () => result.address;

// Resized and cut as in training, then normalised: (channels, height, width).
function prepare(bitmap, height, width) {
  const how = model.preprocessing;
  const sides = [[bitmap.width, width], [bitmap.height, height]];
  const scale = Math.max(...sides.map(([side, wanted]) => Math.trunc(wanted / how.crop_fraction) / side));
  const [right, down] = sides.map(([side, wanted]) => {
    const resized = height === width ? Math.trunc(side * scale + 1e-6) : even(side * scale);
    return taps(side, resized, even((resized - wanted) / 2), wanted, how.interpolation);
  });
  const canvas = Object.assign(make("canvas"), { width: bitmap.width, height: bitmap.height });
  const paper = canvas.getContext("2d", { willReadFrequently: true });
  paper.fillStyle = "white";
  paper.fillRect(0, 0, bitmap.width, bitmap.height);
  paper.drawImage(bitmap, 0, 0);
  const pixels = paper.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const across = new Uint8ClampedArray(bitmap.height * width * 3), x = new Float32Array(3 * height * width);
  for (let row = 0; row < bitmap.height; row++) for (let i = 0; i < width; i++) for (let c = 0; c < 3; c++) {
    const [first, weights] = right[i];
    let sum = 0;
    for (let k = 0; k < weights.length; k++) sum += weights[k] * pixels[4 * (row * bitmap.width + first + k) + c];
    across[3 * (row * width + i) + c] = sum;
  }
  const level = new Uint8ClampedArray(1);
  for (let c = 0; c < 3; c++) for (let i = 0; i < height; i++) for (let j = 0; j < width; j++) {
    const [first, weights] = down[i];
    let sum = 0;
    for (let k = 0; k < weights.length; k++) sum += weights[k] * across[3 * ((first + k) * width + j) + c];
    level[0] = sum;
    x[(c * height + i) * width + j] = (level[0] / 255 - how.mean[c]) / how.std[c];
  }
  return x;
}

const even = (value) => value % 1 === 0.5 || value % 1 === -0.5 ? 2 * Math.round(value / 2) : Math.round(value);

const KERNELS = {
  bilinear: [1, (x) => Math.max(0, 1 - x)],
  bicubic: [2, (x) => x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0],
};

// From which pixel on, and with which weights, each place of a resized side is computed: a kernel that widens when it
// shrinks.
function taps(side, resized, from, count, kind) {
  const [support, weigh] = KERNELS[kind], scale = side / resized, wide = Math.max(scale, 1);
  return Array.from({ length: count }, (_, i) => {
    const centre = (Math.min(Math.max(from + i, 0), resized - 1) + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support * wide + 0.5));
    const end = Math.min(side, Math.trunc(centre + support * wide + 0.5));
    const weights = Array.from({ length: end - first }, (_, k) => weigh(Math.abs(first + k - centre + 0.5) / wide));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return [first, weights.map((weight) => weight / total)];
  });
}
