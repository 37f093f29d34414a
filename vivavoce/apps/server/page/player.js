// Shows a session's pictures and plays its sound, both by the times that the packets carry.
//
// Where the browser allows sound, the clock is the sound's: pictures are shown when the sound of their time is heard. Until it
// does, pictures run by the page's own clock.

const CUSHION_SECONDS = 0.06; // that packets wait before they are shown, which hides jitter of the network
const LEAST_SECONDS = 0.01; // that a packet has to have left: the sound's clock goes in steps
const WINDOW_SECONDS = 3; // within which none came late: then what waits longer than it needs to is caught up
const FADE_SECONDS = 0.01; // of sound that is cut off, so that it does not click
const MOST_DECODING = 3; // pictures side by side
const MOST_WAITING = 50; // pictures that are decoded; a page that comes into the background is not asked to paint

export class Player {
  #canvas;
  #brush;
  #context;
  #told;
  #session = 0; // what is still decoded for an earlier one is dropped
  #running = false; // whether the clock is the sound's
  #offset = null; // the clock's time minus the session's
  #coming = []; // packets with pictures that are still to be decoded
  #pictures = []; // {seconds, bitmap}, in order
  #decoding = 0;
  #utterance = null; // what all sound since the last silence by request goes through
  #spoken = -Infinity; // when the last sound that was scheduled ends, by the clock
  #waiting = CUSHION_SECONDS; // that the last packet had left when it came
  #spare = Infinity; // the least of it in this window
  #windowEnd = 0;

  muted = false; // sound that comes from now on is not played

  /** `told` is called with whether sound can be heard, when that changes. */
  constructor(canvas, rate, told) {
    this.#canvas = canvas;
    this.#brush = canvas.getContext("2d");
    this.#told = told;
    // At the rate of the packets, so that one follows the other without a seam.
    this.#context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
    this.#context.onstatechange = () => this.#changeClock();
    requestAnimationFrame(() => this.#paint());
  }

  get audible() {
    return this.#running;
  }

  /** Seconds that packets wait here before they are seen and heard. */
  get delaySeconds() {
    return this.#waiting + (this.#running ? this.#latency() : 0);
  }

  /** The session's time that is seen and heard now; null before anything came. */
  get seconds() {
    return this.#offset === null ? null : this.#shown() - this.#offset;
  }

  /** Browsers allow it only in answer to a click or a key. */
  async turnSoundOn() {
    await this.#context.resume();
  }

  /** Forget all of the session before. The last picture stays until there is another one. */
  begin() {
    this.#session += 1;
    this.#offset = null;
    this.hush();
    this.forget(-Infinity);
  }

  /** Silence, at once. */
  hush() {
    if (this.#utterance !== null) {
      const { gain } = this.#utterance;
      gain.setTargetAtTime(0, this.#context.currentTime, FADE_SECONDS / 3);
      setTimeout((node) => node.disconnect(), 100, this.#utterance);
      this.#utterance = null;
      this.#spoken = -Infinity;
    }
  }

  /** Forget the pictures from a time of the session on. */
  forget(seconds) {
    this.#coming = this.#coming.filter((packet) => packet.seconds < seconds);
    this.#pictures.filter((picture) => picture.seconds >= seconds).forEach(({ bitmap }) => bitmap.close());
    this.#pictures = this.#pictures.filter((picture) => picture.seconds < seconds);
  }

  /** Call something when a time of the session is seen and heard. */
  at(seconds, action) {
    const session = this.#session;
    const wait = this.#offset === null ? 0 : seconds - this.seconds;
    setTimeout(() => session === this.#session && action(), 1000 * Math.max(0, wait));
  }

  picture(packet) {
    if (!document.hidden) {
      this.#coming.push(packet);
      this.#decodeNext();
    }
  }

  sound({ seconds, speech, payload }) {
    this.#keepTime(seconds);
    if (!speech || !this.#running || this.muted) {
      return; // silence needs no playing
    }
    const pcm = new Int16Array(payload);
    const buffer = this.#context.createBuffer(1, pcm.length, this.#context.sampleRate);
    buffer.getChannelData(0).forEach((_, i, samples) => (samples[i] = pcm[i] / 32768));
    if (this.#utterance === null) {
      this.#utterance = this.#context.createGain();
      this.#utterance.connect(this.#context.destination);
    }
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#utterance);
    const begin = this.#whole(seconds + this.#offset);
    source.start(begin);
    this.#spoken = begin + buffer.duration;
  }

  /** Choose when a session's time is shown: late enough for what comes late, and no later. */
  #keepTime(seconds) {
    const now = this.#now();
    const spare = this.#offset === null ? -Infinity : seconds + this.#offset - now;
    if (spare < LEAST_SECONDS) {
      this.#waiting = CUSHION_SECONDS;
      this.#offset = this.#whole(now + CUSHION_SECONDS - seconds);
      this.#openWindow(now);
      return;
    }
    this.#waiting = spare;
    this.#spare = Math.min(this.#spare, spare);
    if (now < this.#windowEnd) {
      return;
    }
    // A jump is not heard where nothing is spoken.
    if (this.#spare > 2 * CUSHION_SECONDS && this.#spoken < now) {
      this.#offset = this.#whole(this.#offset - this.#spare + CUSHION_SECONDS);
    }
    this.#openWindow(now);
  }

  #openWindow(now) {
    this.#spare = Infinity;
    this.#windowEnd = now + WINDOW_SECONDS;
  }

  /** Whole samples, so that sounds that follow each other touch. */
  #whole(seconds) {
    return Math.round(seconds * this.#context.sampleRate) / this.#context.sampleRate;
  }

  #now() {
    return this.#running ? this.#context.currentTime : performance.now() / 1000;
  }

  /** What is seen and heard now: sound takes a moment from the program to the ear. */
  #shown() {
    return this.#running ? this.#context.currentTime - this.#latency() : performance.now() / 1000;
  }

  #latency() {
    return Math.min(0.5, this.#context.outputLatency || this.#context.baseLatency || 0);
  }

  #changeClock() {
    const running = this.#context.state === "running";
    if (running === this.#running) {
      return;
    }
    this.hush();
    const seconds = this.seconds;
    this.#running = running;
    if (seconds !== null) {
      this.#offset = this.#whole(this.#shown() - seconds);
      this.#openWindow(this.#now());
    }
    this.#told(running);
  }

  async #decodeNext() {
    if (this.#coming.length === 0 || this.#decoding >= MOST_DECODING) {
      return;
    }
    // One that is late is not worth the work, if the one after it is late, too.
    while (this.#coming.length > 1 && this.#offset !== null && this.#coming[1].seconds <= this.seconds) {
      this.#coming.shift();
    }
    const session = this.#session;
    const { seconds, payload } = this.#coming.shift();
    this.#decoding += 1;
    try {
      const bitmap = await createImageBitmap(new Blob([payload], { type: "image/jpeg" }));
      if (session === this.#session) {
        this.#insert({ seconds, bitmap });
      } else {
        bitmap.close();
      }
    } finally {
      this.#decoding -= 1;
      this.#decodeNext();
    }
  }

  /** Pictures that are decoded side by side may come out of order. */
  #insert(picture) {
    const place = this.#pictures.findLastIndex((other) => other.seconds <= picture.seconds) + 1;
    this.#pictures.splice(place, 0, picture);
    if (this.#pictures.length > MOST_WAITING) {
      this.#pictures.shift().bitmap.close();
    }
  }

  #paint() {
    requestAnimationFrame(() => this.#paint());
    if (this.#offset === null) {
      return;
    }
    const now = this.seconds + 0.008; // half of what a screen takes to show the next
    let due = null;
    while (this.#pictures.length > 0 && this.#pictures[0].seconds <= now) {
      due?.bitmap.close();
      due = this.#pictures.shift();
    }
    if (due !== null) {
      this.#show(due.bitmap);
    }
  }

  #show(bitmap) {
    const { width, height } = bitmap;
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      Object.assign(this.#canvas, { width, height });
    }
    this.#brush.drawImage(bitmap, 0, 0);
    bitmap.close();
  }
}
