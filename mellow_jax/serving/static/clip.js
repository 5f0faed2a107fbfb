// A sound in the page: read, recorded, drawn, and written as a wav file.

const AS_THEY_ARE = /\.(wav|flac|ogg|opus|mp3|aiff?)$/i; // the server decodes these itself
const RATE = 32000;

// Samples of all channels of a file, decoded by the browser at a fixed rate.
export async function decode(buffer) {
  return new OfflineAudioContext(1, 1, RATE).decodeAudioData(buffer.slice(0));
}

// {name, type, bytes, audio}: what is sent, and what is drawn. Other formats become wav files.
export async function read(file) {
  const bytes = await file.arrayBuffer();
  const audio = await decode(bytes);
  if (AS_THEY_ARE.test(file.name)) return { name: file.name, type: file.type || "audio/wav", bytes, audio };
  return { name: file.name, type: "audio/wav", bytes: wav(audio), audio };
}

// A 16-bit wav file of an AudioBuffer.
export function wav(audio) {
  const { numberOfChannels: channels, length, sampleRate } = audio;
  const view = new DataView(new ArrayBuffer(44 + length * channels * 2));
  const text = (at, s) => [...s].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, view.byteLength - 8, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, channels, true);
  view.setUint32(24, sampleRate, true); view.setUint32(28, sampleRate * channels * 2, true);
  view.setUint16(32, channels * 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, length * channels * 2, true);
  for (let c = 0; c < channels; c++) {
    const samples = audio.getChannelData(c);
    for (let i = 0; i < length; i++) {
      const x = Math.max(-1, Math.min(1, samples[i]));
      view.setInt16(44 + (i * channels + c) * 2, Math.round(x * 32767), true);
    }
  }
  return view.buffer;
}

export function base64(bytes) {
  const array = new Uint8Array(bytes);
  let text = "";
  for (let i = 0; i < array.length; i += 0x8000) text += String.fromCharCode(...array.subarray(i, i + 0x8000));
  return btoa(text);
}

// Begins to record; the function that it gives ends it and gives the sound. What a telephone call
// wants of a microphone is off: it deletes the very sounds that one asks about.
export async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
  const context = new AudioContext(), silence = () => stream.getTracks().forEach((track) => track.stop());
  try {
    await context.audioWorklet.addModule("recorder.js");
  } catch (error) {
    silence();  // else the microphone would stay on
    throw error;
  }
  const node = new AudioWorkletNode(context, "recorder");
  const parts = [];
  node.port.onmessage = (event) => parts.push(event.data);
  context.createMediaStreamSource(stream).connect(node);
  return async () => {
    silence();
    const length = parts.reduce((n, part) => n + part.length, 0);
    const audio = new AudioBuffer({ length: Math.max(length, 1), sampleRate: context.sampleRate });
    let at = 0;
    for (const part of parts) { audio.copyToChannel(part, 0, at); at += part.length; }
    await context.close();
    return { name: "recording.wav", type: "audio/wav", bytes: wav(audio), audio };
  };
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function drawWave(canvas, audio) {
  const g = canvas.getContext("2d"), { width, height } = canvas;
  g.clearRect(0, 0, width, height);
  if (!audio) return;
  const samples = audio.getChannelData(0);
  g.fillStyle = colour("--accent");
  for (let x = 0; x < width; x++) {
    let low = 0, high = 0;
    const end = Math.floor((x + 1) * samples.length / width);
    for (let i = Math.floor(x * samples.length / width); i < end; i++) {
      if (samples[i] < low) low = samples[i];
      if (samples[i] > high) high = samples[i];
    }
    g.fillRect(x, (1 - high) * height / 2, 1, Math.max(1, (high - low) * height / 2));
  }
}

const SIZE = 1024; // samples of a spectrum
const turns = Array.from({ length: SIZE / 2 }, (_, k) => -2 * Math.PI * k / SIZE);
const COS = Float32Array.from(turns, Math.cos), SIN = Float32Array.from(turns, Math.sin);
const WINDOW = Float32Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos(2 * Math.PI * i / SIZE));

// In-place radix-2 transform of SIZE real and imaginary parts.
function fft(re, im) {
  for (let i = 1, j = 0; i < SIZE; i++) {
    let bit = SIZE >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      const a = re[i], b = im[i];
      re[i] = re[j]; im[i] = im[j]; re[j] = a; im[j] = b;
    }
  }
  for (let size = 2; size <= SIZE; size <<= 1) {
    const half = size >> 1, stride = SIZE / size;
    for (let k = 0; k < half; k++) {
      const c = COS[k * stride], s = SIN[k * stride];
      for (let i = k; i < SIZE; i += size) {
        const j = i + half, a = re[j] * c - im[j] * s, b = re[j] * s + im[j] * c;
        re[j] = re[i] - a; im[j] = im[i] - b; re[i] += a; im[i] += b;
      }
    }
  }
}

// 80 dB of range, low frequencies below, up to 10 kHz. Drawn piece by piece: an answer may come meanwhile.
export async function drawSpectrogram(canvas, audio) {
  canvas.sound = audio;
  const g = canvas.getContext("2d"), { width, height } = canvas;
  g.clearRect(0, 0, width, height);
  if (!audio) return;
  const samples = audio.getChannelData(0), picture = g.createImageData(width, height);
  const top = Math.min(SIZE / 2, Math.round(10000 / audio.sampleRate * SIZE));
  for (let x = 0; x < width; x++) {
    if (x % 32 === 31) await new Promise((resolve) => setTimeout(resolve));
    if (canvas.sound !== audio) return;
    const at = Math.floor(x * Math.max(samples.length - SIZE, 0) / width);
    const re = new Float32Array(SIZE), im = new Float32Array(SIZE);
    for (let i = 0; i < SIZE && at + i < samples.length; i++) re[i] = samples[at + i] * WINDOW[i];
    fft(re, im);
    for (let y = 0; y < height; y++) {
      const k = Math.floor((height - 1 - y) * top / height);
      const db = 10 * Math.log10(re[k] ** 2 + im[k] ** 2 + 1e-9);
      const v = Math.max(0, Math.min(1, (db + 40) / 80));
      let p = 4 * (y * width + x);
      picture.data[p++] = 255 * v ** 0.7;
      picture.data[p++] = 200 * v ** 1.6;
      picture.data[p++] = 90 * (1 - v) + 120 * v ** 3;
      picture.data[p] = 255;
    }
  }
  g.putImageData(picture, 0, 0);
}

export function drawSteps(canvas, probabilities) {
  const g = canvas.getContext("2d"), { width, height } = canvas, step = width / probabilities.length;
  g.clearRect(0, 0, width, height);
  g.fillStyle = colour("--accent");
  probabilities.forEach((p, i) => {
    g.globalAlpha = Math.min(1, Math.max(p, 0));
    g.fillRect(i * step, 0, Math.ceil(step), height);
  });
  g.globalAlpha = 1;
}
