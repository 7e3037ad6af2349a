// Writes artifacts/<Name>.json = {abi, bytecode, deployedBytecode} from forge's output. The Rust build reads only these.
"use strict";
const fs = require("fs");
const path = require("path");

const root = path.join(__dirname, "..");
const names = [
  "WTRL",
  "FeePool",
  "PaymentChannels",
  "Settlement",
  "ProviderStaking",
  "ValidatorStaking",
  "SmartAccount",
  "SmartAccountFactory",
  "MlDsa44Verifier",
  "HybridVerifier",
];

fs.mkdirSync(path.join(root, "artifacts"), { recursive: true });
for (const name of names) {
  const built = JSON.parse(fs.readFileSync(path.join(root, "out", `${name}.sol`, `${name}.json`), "utf8"));
  const artifact = {
    abi: built.abi,
    bytecode: built.bytecode.object,
    deployedBytecode: built.deployedBytecode.object,
  };
  fs.writeFileSync(path.join(root, "artifacts", `${name}.json`), JSON.stringify(artifact, null, 1) + "\n");
}
