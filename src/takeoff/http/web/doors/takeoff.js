// What the pages must know of the door of the later Takeoff API.
export const isFront = false;
export const lengthField = "max_new_tokens";

export const model = async (ask) => Object.values((await (await ask("/status")).json()).live_readers)[0].model_name;

// The pieces of an answer's body: here they are the data of server-sent events.
export function pieces(body) {
  let rest = "";
  return body.pipeThrough(new TextDecoderStream()).pipeThrough(
    new TransformStream({
      transform(chunk, controller) {
        const events = (rest + chunk).split("\n\n");
        rest = events.pop();
        for (const event of events) {
          controller.enqueue(event.split("\n").map((line) => line.replace(/^data: ?/, "")).join("\n"));
        }
      },
    }),
  );
}
