// Runs on the sound thread: what the microphone hears, at the rate that the session wants, as 16-bit pieces of 20 ms.

const PIECE_SECONDS = 0.02;
const ZERO_CROSSINGS = 16; // of the low-pass filter, to each side
const PASSED = 0.92; // of the band that fits the lower of the two rates

const divisor = (a, b) => (b === 0 ? a : divisor(b, a % b));
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

class Microphone extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    // Sample k of the output lies at k * down / up samples of the input, so there are only `up` different filters.
    const shared = divisor(sampleRate, rate);
    this.up = rate / shared;
    this.down = sampleRate / shared;
    this.cutoff = PASSED * Math.min(1, rate / sampleRate);
    this.reach = Math.ceil(ZERO_CROSSINGS * Math.max(1, sampleRate / rate));
    this.filters = new Array(this.up);
    this.heard = new Float32Array(2 * this.reach); // input from `reach - 1` samples before the next output on
    this.phase = 0;
    this.piece = new Int16Array(Math.round(PIECE_SECONDS * rate));
    this.filled = 0;
    this.peak = 0;
  }

  process([channels]) {
    if (channels.length > 0) {
      this.hear(channels);
    }
    return true;
  }

  hear(channels) {
    const known = this.heard.length;
    const heard = new Float32Array(known + channels[0].length);
    heard.set(this.heard);
    for (const channel of channels) {
      channel.forEach((sample, i) => (heard[known + i] += sample / channels.length));
    }
    let begin = 0;
    while (begin + 2 * this.reach <= heard.length) {
      this.put(this.filtered(heard, begin));
      this.phase += this.down;
      begin += Math.floor(this.phase / this.up);
      this.phase %= this.up;
    }
    this.heard = heard.slice(begin);
  }

  filtered(heard, begin) {
    const filter = (this.filters[this.phase] ??= this.filter(this.phase / this.up));
    let sum = 0;
    for (let i = 0; i < filter.length; i++) {
      sum += filter[i] * heard[begin + i];
    }
    return sum;
  }

  // A windowed sinc for an output that lies so far behind an input sample.
  filter(fraction) {
    const taps = Float32Array.from({ length: 2 * this.reach }, (_, i) => {
      const x = i - (this.reach - 1) - fraction;
      const window = Math.abs(x) < this.reach ? 0.5 + 0.5 * Math.cos((Math.PI * x) / this.reach) : 0;
      return sinc(this.cutoff * x) * window;
    });
    const sum = taps.reduce((total, tap) => total + tap, 0);
    return taps.map((tap) => tap / sum);
  }

  put(sample) {
    this.peak = Math.max(this.peak, Math.abs(sample));
    this.piece[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
    if (this.filled === this.piece.length) {
      const samples = this.piece;
      this.piece = new Int16Array(samples.length);
      this.port.postMessage({ samples, peak: this.peak }, [samples.buffer]);
      this.filled = 0;
      this.peak = 0;
    }
  }
}

registerProcessor("microphone", Microphone);
