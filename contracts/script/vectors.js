// Writes fixtures/vectors.json with ethers: the third, independent implementation of the exact bytes. The contracts' tests
// and the Rust crates' tests check themselves against it. Run it again only when the bytes change.
"use strict";
const fs = require("fs");
const path = require("path");
const { AbiCoder, Signature, SigningKey, TypedDataEncoder, concat, getCreate2Address, keccak256, toBeHex, zeroPadValue } = require("ethers");

const CHAIN_ID = 31337;
const CHANNELS = "0x00000000000000000000000000000000000c4a17";
const SETTLEMENT = "0x00000000000000000000000000000000005e771e";
const VALIDATOR_STAKING = "0x0000000000000000000000000000000000057a4e";
const SMART_ACCOUNT = "0x000000000000000000000000000000000005a4ac";
// Throw-away keys of the test fixture.
const KEYS = {
  signer: "0x" + "11".repeat(32),
  payee: "0x" + "22".repeat(32),
  aggregator: "0x" + "33".repeat(32),
  payer: "0x" + "44".repeat(32),
};

const TYPES = {
  Voucher: "bytes32 channelId,uint128 cumulativeAmount",
  CloseAgreement: "bytes32 channelId,uint128 cumulativeAmount",
  IncludeBy: "bytes32 receipt,bytes32 channelId,uint64 sequence,uint64 batch",
  Receipt:
    "uint16 version,uint64 chainId,address channels,address aggregator,bytes32 channelId,uint64 sequence,bytes32 jobId," +
    "bytes32 gatewayNode,bytes32 providerNode,bytes32 modelDigest,bytes32 tokenizerDigest,bytes32 engineBuild," +
    "uint16 instructionSet,bytes32 requestDigest,bytes32 parametersHash,bytes32 promptCommitment,bytes32 outputDigest," +
    "bytes32 fingerprintRoot,uint64 tokensIn,uint64 tokensOut,uint8 finishReason,uint64 startedAtMs," +
    "uint32 timeToFirstTokenMs,uint32 durationMs,uint128 priceIn,uint128 priceOut,uint128 cost,uint128 writtenOff,bytes32 errorHash",
};
const fieldsOf = (name) => TYPES[name].split(",").map((f) => ({ type: f.split(" ")[0], name: f.split(" ")[1] }));
const encoder = (name) => TypedDataEncoder.from({ [name]: fieldsOf(name) });
const domain = (contract) => ({ name: "Trellis", version: "1", chainId: CHAIN_ID, verifyingContract: contract });
const addressOf = (key) => "0x" + keccak256("0x" + SigningKey.computePublicKey(key, false).slice(4)).slice(26);
const label = (text) => keccak256(Buffer.from(text));
const uint128 = (value) => zeroPadValue(toBeHex(value), 16);

function signed(name, contract, value, signers) {
  const types = { [name]: fieldsOf(name) };
  const digest = TypedDataEncoder.hash(domain(contract), types, value);
  const signatures = {};
  for (const signer of signers) signatures[signer] = new SigningKey(KEYS[signer]).sign(digest).serialized;
  return { value, structHash: encoder(name).hash(value), digest, signatures };
}

const accounts = Object.fromEntries(Object.entries(KEYS).map(([name, key]) => [name, addressOf(key)]));

function channel(salt) {
  const terms = {
    payee: accounts.payee,
    payout: "0x00000000000000000000000000000000009a1007",
    signer: accounts.signer,
    token: "0x0000000000000000000000000000000000007041",
    challengePeriodSeconds: 10,
    expiry: "1800000000",
    salt: label(salt),
  };
  const id = keccak256(
    AbiCoder.defaultAbiCoder().encode(
      ["address", "address", "address", "address", "address", "uint32", "uint64", "bytes32", "uint256", "address"],
      [accounts.payer, ...Object.values(terms), CHAIN_ID, CHANNELS],
    ),
  );
  return { payer: accounts.payer, terms, id };
}

function receipt(channelId, sequence, cost, n) {
  return {
    version: 1,
    chainId: String(CHAIN_ID),
    channels: CHANNELS,
    aggregator: accounts.aggregator,
    channelId,
    sequence: String(sequence),
    jobId: label(`job ${n}`),
    gatewayNode: label("gateway"),
    providerNode: label("provider"),
    modelDigest: label("model"),
    tokenizerDigest: label("tokenizer"),
    engineBuild: label("build"),
    instructionSet: 3,
    requestDigest: label(`request ${n}`),
    parametersHash: label(`parameters ${n}`),
    promptCommitment: label(`prompt ${n}`),
    outputDigest: label(`output ${n}`),
    fingerprintRoot: label(`fingerprints ${n}`),
    tokensIn: String(100 + n),
    tokensOut: String(1000 + n),
    finishReason: 1 + (n % 5),
    startedAtMs: String(1790000000000n + BigInt(n)),
    timeToFirstTokenMs: 40 + n,
    durationMs: 4000 + n,
    priceIn: "1000000000000000",
    priceOut: "3000000000000000",
    cost: String(cost),
    writtenOff: String(n),
    errorHash: n % 5 === 3 ? label("error") : "0x" + "00".repeat(32),
  };
}

function tree(leaves) {
  let level = leaves.map((l) => [l.leaf, BigInt(l.sum)]);
  let width = 1;
  while (width < level.length) width *= 2;
  while (level.length < width) level.push(["0x" + "00".repeat(32), 0n]);
  let depth = 0;
  for (; level.length > 1; ++depth) {
    const next = [];
    for (let i = 0; i < level.length; i += 2) {
      const [[l, ls], [r, rs]] = [level[i], level[i + 1]];
      next.push([keccak256(concat(["0x01", l, uint128(ls), r, uint128(rs)])), ls + rs]);
    }
    level = next;
  }
  return { root: level[0][0], sum: String(level[0][1]), depth, count: leaves.length };
}

// What a validator's key signs to prove that the validator has it. Kinds: 0 vote, 1 BLS, 2 ML-DSA-44.
function keyProof(kind, scheme, length) {
  const key = "0x" + Buffer.alloc(length, 0xa0 + kind + scheme).toString("hex");
  const digest = keccak256(
    AbiCoder.defaultAbiCoder().encode(
      ["bytes32", "uint256", "address", "address", "uint8", "bytes32"],
      [label("trellis key domain"), CHAIN_ID, VALIDATOR_STAKING, accounts.payer, kind, keccak256(key)],
    ),
  );
  const made = { kind, key, digest };
  if (kind === 0) Object.assign(made, { scheme, voteKeyHash: keccak256(concat([toBeHex(scheme, 1), key])) });
  return made;
}

// What a smart account's owner signs, with one call and with two.
function execution(count) {
  const types = {
    Execute: [
      { type: "Call[]", name: "calls" },
      ...["uint64 nonce", "uint64 deadline", "address relayer", "uint256 fee", "uint256 gas"].map((f) => ({
        type: f.split(" ")[0],
        name: f.split(" ")[1],
      })),
    ],
    Call: [
      { type: "address", name: "target" },
      { type: "uint256", name: "value" },
      { type: "bytes", name: "data" },
    ],
  };
  const calls = [
    { target: accounts.payee, value: "1500000000000000000", data: "0x" },
    { target: CHANNELS, value: "0", data: "0x01020304" },
  ].slice(0, count);
  const value = { calls, nonce: String(6 + count), deadline: "1790000600", relayer: accounts.payer, fee: "250", gas: "90000" };
  return { value, digest: TypedDataEncoder.hash(domain(SMART_ACCOUNT), types, value) };
}

// Where the account of a signer will be: CREATE2 of a minimal proxy (ERC-1167) with the signer behind its code.
function smartAccount(factory, implementation, signer, salt) {
  const length = toBeHex((signer.length - 2) / 2 + 45, 2);
  const code = concat(["0x61", length, "0x3d81600a3d39f3363d3d373d3d3d363d73", implementation, "0x5af43d82803e903d91602b57fd5bf3", signer]);
  return { factory, implementation, signer, salt, account: getCreate2Address(factory, salt, keccak256(code)) };
}

const channels = [channel("first"), channel("second")];
const amount = "123456789012345678901234567";
const keys = channels.flatMap((c, k) => [1, 2, 300].slice(k).map((sequence) => [c.id, sequence]));
keys.sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : a[0] < b[0] ? -1 : 1));
const receipts = keys.map(([id, sequence], n) => {
  const made = signed("Receipt", SETTLEMENT, receipt(id, sequence, 10n ** 15n * BigInt(n + 1) + 7n, n), ["signer", "payee"]);
  const pqProof = n === 0 ? "0x" : "0x" + Buffer.from(`pq proof ${n}`).toString("hex");
  const signatures = concat([made.signatures.signer, made.signatures.payee]);
  const leaf = keccak256(concat(["0x00", made.structHash, keccak256(signatures), keccak256(pqProof)]));
  return { ...made, pqProof, leaf, sum: made.value.cost };
});
const voucher = signed("Voucher", CHANNELS, { channelId: channels[0].id, cumulativeAmount: amount }, ["signer"]);
const compact = Signature.from(voucher.signatures.signer);

const vectors = {
  note: "Written by contracts/script/vectors.js; the keys are throw-away test keys.",
  chainId: CHAIN_ID,
  paymentChannels: CHANNELS,
  settlement: SETTLEMENT,
  keys: KEYS,
  accounts,
  typeHashes: Object.fromEntries(
    Object.keys(TYPES).map((name) => [name, keccak256(Buffer.from(encoder(name).encodeType(name)))]),
  ),
  domainSeparators: {
    paymentChannels: TypedDataEncoder.hashDomain(domain(CHANNELS)),
    settlement: TypedDataEncoder.hashDomain(domain(SETTLEMENT)),
  },
  channels,
  voucher: { ...voucher, r: compact.r, vs: compact.yParityAndS },
  closeAgreement: signed("CloseAgreement", CHANNELS, { channelId: channels[0].id, cumulativeAmount: amount }, ["signer", "payee"]),
  receipts,
  tree: tree(receipts),
  treeOfFirst: tree(receipts.slice(0, 1)),
  treeOfThree: tree(receipts.slice(0, 3)),
  includeBy: signed(
    "IncludeBy",
    SETTLEMENT,
    { receipt: receipts[2].structHash, channelId: receipts[2].value.channelId, sequence: receipts[2].value.sequence, batch: "9" },
    ["aggregator"],
  ),
  validatorStaking: VALIDATOR_STAKING,
  keyDomain: label("trellis key domain"),
  keyProofs: [keyProof(0, 0, 32), keyProof(0, 1, 1312), keyProof(1, 0, 96), keyProof(2, 0, 1312)],
  smartAccount: SMART_ACCOUNT,
  executions: [execution(1), execution(2)],
  accountAddress: smartAccount(
    "0x00000000000000000000000000000000000fac70",
    "0x000000000000000000000000000000000001a91e",
    "0x" + "ab".repeat(20) + "cd".repeat(1312),
    label("salt"),
  ),
};
fs.mkdirSync(path.join(__dirname, "..", "fixtures"), { recursive: true });
fs.writeFileSync(path.join(__dirname, "..", "fixtures", "vectors.json"), JSON.stringify(vectors, null, 1) + "\n");
