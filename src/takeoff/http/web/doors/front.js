// What the pages must know of the front door.
export const isFront = true;
export const lengthField = "generate_max_length";

export const model = async (ask) => (await (await ask("/v1/models")).json()).data[0].id;

// The pieces of an answer's body: here it is the text itself.
export const pieces = (body) => body.pipeThrough(new TextDecoderStream());
