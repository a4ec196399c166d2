// Stands before the lines for Node of docs/clients.md and after them: `LINES` is where they are put in.
// node script.mjs '["a text", "another"]'

import { createAzure } from "@ai-sdk/azure";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { InferenceClient } from "@huggingface/inference";
import { OllamaEmbeddings } from "@langchain/ollama";
import { AzureOpenAIEmbeddings, OpenAIEmbeddings } from "@langchain/openai";
import { embedMany } from "ai";
import { Ollama } from "ollama";
import { AzureOpenAI, OpenAI } from "openai";

// LINES

const values = JSON.parse(process.argv[2]);
const request = { model: "all-MiniLM-L6-v2", input: values };
const calls = {
  openai: async () => (await client.embeddings.create(request)).data.map((item) => item.embedding),
  azure: async () => (await azure.embeddings.create(request)).data.map((item) => item.embedding),
  model: async () => (await embedMany({ model, values })).embeddings,
  azureModel: async () => (await embedMany({ model: azureModel, values })).embeddings,
  embeddings: () => embeddings.embedDocuments(values),
  azureEmbeddings: () => azureEmbeddings.embedDocuments(values),
  ollamaEmbeddings: () => ollamaEmbeddings.embedDocuments(values),
  ollama: async () => (await ollama.embed(request)).embeddings,
  hub: () => hub.featureExtraction({ inputs: values }),
};
for (const [name, call] of Object.entries(calls)) {
  console.log(JSON.stringify({ name, vectors: await call() }));
}
