// ethers 6, unchanged: transfer, deploy, logs. Usage: node ethers_client.mjs NODE_MODULES RPC_URL PRIVATE_KEY ARTIFACT
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import assert from "node:assert";
const [modules, rpc, key, artifact] = process.argv.slice(2);
const { ethers } = createRequire(`${modules}/`)("ethers");

// Blocks are faster than the quarter of a second for which ethers would remember an answer (also a nonce).
const options = { pollingInterval: 200, cacheTimeout: -1 };
const provider = new ethers.JsonRpcProvider(rpc, undefined, options);
assert.strictEqual((await provider.getNetwork()).chainId, 97001n);
const wallet = new ethers.Wallet(key, provider);
const fresh = ethers.Wallet.createRandom().address;
const sent = await (await wallet.sendTransaction({ to: fresh, value: 12345n })).wait();
assert.strictEqual(sent.status, 1);
assert.strictEqual(await provider.getBalance(fresh), 12345n);

const token = JSON.parse(readFileSync(artifact));
const factory = new ethers.ContractFactory(token.abi, token.bytecode.object ?? token.bytecode, wallet);
const contract = await (await factory.deploy()).waitForDeployment();
const receipt = await (await contract.deposit({ value: 777n })).wait();
assert.strictEqual(await contract.balanceOf(wallet.address), 777n);
const logs = await contract.queryFilter("Transfer", receipt.blockNumber, receipt.blockNumber);
assert(logs.some((log) => log.args[1] === wallet.address && log.args[2] === 777n), "the deposit's log");
provider.destroy();
console.log("ok:", receipt.hash);
