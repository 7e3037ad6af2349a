//! What `sol!` makes of the artifacts.

/// Wrapped TRL: ERC-20 with votes and permit over the native coin.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod wtrl {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        WTRL,
        "../../contracts/artifacts/WTRL.json"
    );
}

/// Fees of all channels, split per epoch.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod fee_pool {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        FeePool,
        "../../contracts/artifacts/FeePool.json"
    );
}

/// One-way channels with cumulative vouchers.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod payment_channels {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        PaymentChannels,
        "../../contracts/artifacts/PaymentChannels.json"
    );
}

/// Bonded aggregators, batches of receipts and their one-step proofs.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod settlement {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        Settlement,
        "../../contracts/artifacts/Settlement.json"
    );
}

/// Providers' stake, unbonding queue and tiers.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod provider_staking {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        ProviderStaking,
        "../../contracts/artifacts/ProviderStaking.json"
    );
}

/// Validators' stake, delegations, keys, epochs and slashing.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod validator_staking {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        ValidatorStaking,
        "../../contracts/artifacts/ValidatorStaking.json"
    );
}

/// An account whose owner is an ERC-7913 signer.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod smart_account {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        SmartAccount,
        "../../contracts/artifacts/SmartAccount.json"
    );
}

/// Makes smart accounts at addresses that are known before.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod smart_account_factory {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        SmartAccountFactory,
        "../../contracts/artifacts/SmartAccountFactory.json"
    );
}

/// ERC-7913 verifier for ML-DSA-44.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod ml_dsa44_verifier {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        MlDsa44Verifier,
        "../../contracts/artifacts/MlDsa44Verifier.json"
    );
}

/// ERC-7913 verifier for two keys that must both sign: secp256k1 and ML-DSA-44.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod hybrid_verifier {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        HybridVerifier,
        "../../contracts/artifacts/HybridVerifier.json"
    );
}
