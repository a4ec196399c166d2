// Embeds the same texts with each client for Node; prints a line of JSON for each: its name, and vectors or an error.
// node clients.mjs http://127.0.0.1:8080 key model '["a text", "another"]'

const [root, apiKey, model, given] = process.argv.slice(2);
const texts = JSON.parse(given);
const baseURL = `${root}/v1`;
const apiVersion = "2024-10-21";
const headers = { Authorization: `Bearer ${apiKey}` }; // where a client has no place for a key

const clients = {
  async fetch() {
    const reply = await fetch(`${baseURL}/embeddings`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-api-key": apiKey },
      body: JSON.stringify({ model, input: texts }),
    });
    return (await reply.json()).data.map((item) => item.embedding);
  },

  async openai() {
    const { OpenAI } = await import("openai");
    const reply = await new OpenAI({ baseURL, apiKey }).embeddings.create({ model, input: texts });
    return reply.data.map((item) => item.embedding);
  },

  async "openai, floats"() {
    const { OpenAI } = await import("openai");
    const client = new OpenAI({ baseURL, apiKey });
    const reply = await client.embeddings.create({ model, input: texts, encoding_format: "float" });
    return reply.data.map((item) => item.embedding);
  },

  async "openai, errors"() {
    const { OpenAI } = await import("openai");
    const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
    try {
      await client.embeddings.create({ model: "no-such-model", input: texts });
    } catch (error) {
      const { status, code, param, requestID } = error;
      return { name: error.constructor.name, status, code, param, hasId: Boolean(requestID) };
    }
  },

  async "openai, Azure"() {
    const { AzureOpenAI } = await import("openai");
    const client = new AzureOpenAI({ endpoint: root, apiKey, apiVersion, deployment: model });
    const reply = await client.embeddings.create({ model, input: texts });
    return reply.data.map((item) => item.embedding);
  },

  async "AI SDK"() {
    const { embedMany } = await import("ai");
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    const provider = createOpenAICompatible({ name: "dejavec", baseURL, apiKey });
    return (await embedMany({ model: provider.textEmbeddingModel(model), values: texts })).embeddings;
  },

  async "AI SDK, Azure"() {
    const { embedMany } = await import("ai");
    const { createAzure } = await import("@ai-sdk/azure");
    const provider = createAzure({ baseURL: `${root}/openai/v1`, apiKey });
    return (await embedMany({ model: provider.textEmbeddingModel(model), values: texts })).embeddings;
  },

  async "AI SDK, Azure by deployment"() {
    const { embedMany } = await import("ai");
    const { createAzure } = await import("@ai-sdk/azure");
    const options = { baseURL: `${root}/openai`, apiKey, apiVersion, useDeploymentBasedUrls: true };
    return (await embedMany({ model: createAzure(options).textEmbeddingModel(model), values: texts })).embeddings;
  },

  async LangChain() {
    const { OpenAIEmbeddings } = await import("@langchain/openai");
    return new OpenAIEmbeddings({ model, apiKey, configuration: { baseURL }, maxRetries: 0 }).embedDocuments(texts);
  },

  async "LangChain, Azure"() {
    const { AzureOpenAIEmbeddings } = await import("@langchain/openai");
    return new AzureOpenAIEmbeddings({
      model,
      azureOpenAIApiKey: apiKey,
      azureOpenAIApiVersion: apiVersion,
      azureOpenAIApiDeploymentName: model,
      azureOpenAIBasePath: `${root}/openai/deployments`,
      maxRetries: 0,
    }).embedDocuments(texts);
  },

  async "LangChain, Ollama"() {
    const { OllamaEmbeddings } = await import("@langchain/ollama");
    return new OllamaEmbeddings({ model, baseUrl: root, headers, truncate: true, maxRetries: 0 }).embedDocuments(texts);
  },

  async Ollama() {
    const { Ollama } = await import("ollama");
    return (await new Ollama({ host: root, headers }).embed({ model, input: texts })).embeddings;
  },

  async "Hugging Face"() {
    const { InferenceClient } = await import("@huggingface/inference");
    return new InferenceClient(apiKey).endpoint(root).featureExtraction({ inputs: texts });
  },
};

for (const [name, call] of Object.entries(clients)) {
  try {
    console.log(JSON.stringify({ name, result: await call() }));
  } catch (error) {
    console.log(JSON.stringify({ name, error: `${error.stack} ${JSON.stringify(error)}` }));
  }
}
