// Speech from the microphone and from files, as signed 16-bit mono.

import { Problem } from "./api.js";

const REFUSALS = {
  NotAllowedError: "The microphone was not allowed. Allow it for this page in the browser's settings, and try again.",
  NotFoundError: "No microphone was found. Plug one in, and try again.",
  NotReadableError: "The microphone is in use by another program. Close that, and try again.",
};

/**
 * Open the microphone. `heard` is called every 20 ms with {samples, peak}, `gone` if it is taken away.
 * Resolves to a function that closes it.
 */
export async function openMicrophone(rate, heard, gone) {
  if (navigator.mediaDevices === undefined) {
    throw new Problem("Browsers give the microphone only to pages opened over https, or from this computer itself (localhost).");
  }
  let stream;
  try {
    const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new Problem(REFUSALS[error.name] ?? `The microphone could not be opened: ${error.message}`, { cause: error });
  }
  // A context of its own, at the microphone's rate: not every browser connects the two otherwise.
  const context = new AudioContext({ latencyHint: "interactive" });
  const close = () => {
    stream.getTracks().forEach((track) => track.stop());
    context.close();
  };
  try {
    await context.audioWorklet.addModule("/page/microphone.js");
    const node = new AudioWorkletNode(context, "microphone", { processorOptions: { rate } });
    node.port.onmessage = ({ data }) => heard(data);
    context.createMediaStreamSource(stream).connect(node);
    node.connect(context.destination); // it puts out nothing, but what leads nowhere may not be run
    await context.resume();
  } catch (error) {
    close();
    throw new Problem(`The microphone could not be read: ${error.message}`, { cause: error });
  }
  stream.getAudioTracks()[0].onended = gone;
  return close;
}

/** The sound of a file as Int16Array at a rate; all channels mixed. */
export async function decodeSound(file, rate) {
  let buffer;
  try {
    // A context of that rate resamples what it decodes.
    buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
  } catch (error) {
    const advice = "Try WAV, MP3, M4A, OGG or FLAC.";
    throw new Problem(`“${file.name}” holds no sound that this browser can read. ${advice}`, { cause: error });
  }
  const mean = new Float32Array(buffer.length);
  for (let c = 0; c < buffer.numberOfChannels; c++) {
    const channel = buffer.getChannelData(c);
    for (let i = 0; i < mean.length; i++) {
      mean[i] += channel[i] / buffer.numberOfChannels;
    }
  }
  const pcm = new Int16Array(mean.length);
  for (let i = 0; i < pcm.length; i++) {
    pcm[i] = Math.max(-32768, Math.min(32767, Math.round(mean[i] * 32768)));
  }
  return pcm;
}
