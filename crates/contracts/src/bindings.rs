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
