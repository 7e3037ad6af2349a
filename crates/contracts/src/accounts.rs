//! Smart accounts (CHN-21): where every chain of ours has their contracts, where an account will be, and what its owner signs.
//!
//! The contracts are sent by a deployer of their own, for whom nobody has a key, so that they have the same addresses on all
//! chains and an account has the same address everywhere.

use alloy_primitives::{Address, B256, Bytes, U256, address, keccak256};
use alloy_sol_types::SolCall;

use crate::deployment::{Step, create};
use crate::hybrid_verifier::HybridVerifier;
use crate::ml_dsa44_verifier::MlDsa44Verifier;
use crate::smart_account::SmartAccount;
use crate::smart_account_factory::SmartAccountFactory;
use crate::typed::digest;

/// Who sends [`account_steps`].
pub const ACCOUNTS_DEPLOYER: Address = address!("0000000000000000000000000000000000747300");
/// Bytes of a signer at least: a verifier's address.
pub const SIGNER_BYTES_MIN: usize = 20;

#[allow(missing_docs)]
mod structs {
    alloy_sol_types::sol! {
        /// One call that an account's owner wants.
        #[derive(Debug, PartialEq, Eq)]
        struct Call {
            address target;
            uint256 value;
            bytes data;
        }

        /// What an account's owner signs: calls, all of them or none. `nonce`: the account's next. `deadline`: the last Unix
        /// second. `relayer`: who may bring them, zero anybody. `fee`: wei for whoever brings them. `gas`: gas that must be
        /// left when the first call begins.
        #[derive(Debug, PartialEq, Eq)]
        struct Execute {
            Call[] calls;
            uint64 nonce;
            uint64 deadline;
            address relayer;
            uint256 fee;
            uint256 gas;
        }
    }
}
pub use structs::{Call, Execute};

/// Where the contracts of smart accounts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountContracts {
    /// The code that all accounts run.
    pub implementation: Address,
    /// Makes accounts.
    pub factory: Address,
    /// Verifier of ML-DSA-44 keys.
    pub ml_dsa44_verifier: Address,
    /// Verifier of a secp256k1 and an ML-DSA-44 key that must both sign.
    pub hybrid_verifier: Address,
}

impl AccountContracts {
    /// On a chain whose genesis executed [`account_steps`].
    #[must_use]
    pub fn predeployed() -> Self {
        let at = |nonce| ACCOUNTS_DEPLOYER.create(nonce);
        Self { implementation: at(0), factory: at(1), ml_dsa44_verifier: at(2), hybrid_verifier: at(3) }
    }

    /// Where the account of a signer is or will be: `SmartAccountFactory.addressOf`.
    #[must_use]
    pub fn address_of(&self, signer: &[u8], salt: B256) -> Address {
        self.factory.create2(salt, keccak256(clone_code(self.implementation, signer)))
    }
}

/// Init code of a minimal proxy (ERC-1167) with bytes behind its code.
fn clone_code(implementation: Address, arguments: &[u8]) -> Vec<u8> {
    const PROXY_BYTES: usize = 45;
    let length = u16::try_from(arguments.len().saturating_add(PROXY_BYTES)).unwrap_or(u16::MAX);
    let mut code = vec![0x61];
    code.extend_from_slice(&length.to_be_bytes());
    code.extend_from_slice(&alloy_primitives::hex!("3d81600a3d39f3363d3d373d3d3d363d73"));
    code.extend_from_slice(implementation.as_slice());
    code.extend_from_slice(&alloy_primitives::hex!("5af43d82803e903d91602b57fd5bf3"));
    code.extend_from_slice(arguments);
    code
}

/// What [`ACCOUNTS_DEPLOYER`] sends in a genesis, in this order and with no value.
#[must_use]
pub fn account_steps() -> Vec<Step> {
    let at = AccountContracts::predeployed();
    let factory = SmartAccountFactory::constructorCall { implementation: at.implementation };
    vec![
        create("SmartAccount", at.implementation, &SmartAccount::BYTECODE, &SmartAccount::constructorCall {}),
        create("SmartAccountFactory", at.factory, &SmartAccountFactory::BYTECODE, &factory),
        plain("MlDsa44Verifier", at.ml_dsa44_verifier, &MlDsa44Verifier::BYTECODE),
        plain("HybridVerifier", at.hybrid_verifier, &HybridVerifier::BYTECODE),
    ]
}

fn plain(name: &'static str, address: Address, code: &Bytes) -> Step {
    Step { name, to: None, input: code.clone(), address }
}

/// The signer of a verifier and a key, as ERC-7913 writes it.
#[must_use]
pub fn signer(verifier: Address, key: &[u8]) -> Bytes {
    [verifier.as_slice(), key].concat().into()
}

impl Execute {
    /// What the owner of `account` signs.
    #[must_use]
    pub fn digest(&self, chain_id: u64, account: Address) -> B256 {
        digest(self, chain_id, account)
    }

    /// Wei that leave the account.
    #[must_use]
    pub fn spent(&self) -> U256 {
        self.calls.iter().fold(self.fee, |sum, call| sum.saturating_add(call.value))
    }

    /// Call data of `SmartAccount.executeSigned`.
    #[must_use]
    pub fn call_data(&self, signature: Bytes) -> Vec<u8> {
        let calls = self.calls.iter().cloned();
        SmartAccount::executeSignedCall {
            calls: calls.map(|Call { target, value, data }| SmartAccount::Call { target, value, data }).collect(),
            terms: SmartAccount::Terms {
                nonce: self.nonce,
                deadline: self.deadline,
                relayer: self.relayer,
                fee: self.fee,
                gas: self.gas,
            },
            signature,
        }
        .abi_encode()
    }
}

/// Call data of `SmartAccountFactory.create`.
#[must_use]
pub fn create_call(signer: Bytes, salt: B256) -> Vec<u8> {
    SmartAccountFactory::createCall { signer, salt }.abi_encode()
}
