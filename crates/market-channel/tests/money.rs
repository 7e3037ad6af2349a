//! Both sides of a channel under loss, duplication, reordering and aborts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    missing_docs
)]

use proptest::prelude::*;
use trellis_crypto::AccountKey;
use trellis_market_channel::{
    JobState, PayeeChannel, PayeeError, PayerChannel, PayerError, PayerFault, PayerJob, Permit, Prices, StopReason,
    TokenBounds, VoucherDraft, VoucherFault, sign_voucher,
};
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::wire::{HeldVoucher, VoucherFrame};
use trellis_primitives::{Address, B256, ChannelId, JobId, Wei};

const RISK: Wei = Wei(1_000);
const DEPOSIT: Wei = Wei(1_000_000);

fn domain() -> Domain {
    Domain { chain_id: 97_001, contract: Address::repeat_byte(0xcc) }
}

fn key() -> AccountKey {
    AccountKey::from_bytes(&[7; 32]).unwrap()
}

fn channel() -> ChannelId {
    ChannelId(B256::repeat_byte(1))
}

fn job(number: u8) -> JobId {
    JobId(B256::repeat_byte(number))
}

fn payer() -> PayerChannel {
    PayerChannel::new(domain(), channel(), key().address(), DEPOSIT)
}

fn payee() -> PayeeChannel {
    PayeeChannel::new(domain(), channel(), key().address(), DEPOSIT, RISK)
}

fn sign(draft: VoucherDraft) -> VoucherFrame {
    let voucher = sign_voucher(&domain(), draft.channel, draft.cumulative, &key());
    draft.into_frame(voucher)
}

/// One wei per token both ways.
fn prices() -> Prices {
    Prices { input: Wei(1_000_000), output: Wei(1_000_000) }
}

#[derive(Debug, Clone)]
enum Step {
    Allot { job: u8, amount: u64 },
    Deliver { frame: prop::sample::Index },
    Acknowledge,
    AbortAtPayee { job: u8 },
    RestartPayer,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..4, 1u64..5_000).prop_map(|(job, amount)| Step::Allot { job, amount }),
        4 => any::<prop::sample::Index>().prop_map(|frame| Step::Deliver { frame }),
        2 => Just(Step::Acknowledge),
        1 => (0u8..4).prop_map(|job| Step::AbortAtPayee { job }),
        1 => Just(Step::RestartPayer),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    // row: MKT-30, MKT-31
    #[test]
    fn the_increments_are_the_counter_on_both_sides_whatever_is_lost_repeated_or_reordered(steps in steps()) {
        let (mut payer, mut payee) = (payer(), payee());
        for number in 0..4 {
            payee.open_job(job(number), prices(), DEPOSIT).unwrap();
        }
        let mut journal: Vec<(JobId, Wei)> = Vec::new();
        let mut sent: Vec<VoucherFrame> = Vec::new();
        let mut ended = Wei(0);
        for step in steps {
            match step {
                Step::Allot { job: number, amount } => {
                    if let Ok(draft) = payer.allot(job(number), Wei(u128::from(amount))) {
                        journal.push(draft.added);
                        sent.push(sign(draft));
                    }
                }
                // Any frame ever sent may arrive at any time, any number of times, or never.
                Step::Deliver { frame } if !sent.is_empty() => {
                    let frame = frame.get(&sent);
                    match payee.apply(frame) {
                        Ok(applied) => prop_assert!(applied.held.cumulative >= frame.voucher.cumulative.min(payee.cumulative())),
                        Err(fault) => prop_assert!(matches!(fault, VoucherFault::Gap { .. }), "{fault}"),
                    }
                }
                Step::Deliver { .. } => {}
                Step::Acknowledge => {
                    if let Some(held) = payee.held() {
                        payer.acknowledged(held).unwrap();
                    }
                }
                Step::AbortAtPayee { job: number } => {
                    if let Ok(outcome) = payee.abort_job(&job(number)) {
                        ended = ended.saturating_add(outcome.cost);
                    }
                }
                Step::RestartPayer => {
                    payer = PayerChannel::restore(domain(), channel(), key().address(), DEPOSIT, journal.clone());
                    prop_assert!(matches!(payer.allot(job(0), Wei(1)), Err(PayerError::NotSynced)));
                    payer.adopt(payee.held()).unwrap();
                }
            }
            prop_assert_eq!(payer.total(), payer.cumulative());
            prop_assert_eq!(payee.total(), payee.cumulative());
            prop_assert!(payee.cumulative() <= payer.cumulative());
            prop_assert!(payer.cumulative() <= DEPOSIT);
        }
        // The connection is back: the highest voucher is sent again and both sides agree on every wei.
        payer.adopt(payee.held()).unwrap();
        if let Some(draft) = payer.resend() {
            payee.apply(&sign(draft)).unwrap();
        }
        prop_assert_eq!(payee.cumulative(), payer.cumulative());
        let costs: Wei = journal.iter().map(|(_, amount)| *amount).sum();
        prop_assert_eq!(payee.total(), costs);
        prop_assert!(ended <= payee.total());
    }

    // row: MKT-31
    #[test]
    fn what_is_delivered_unpaid_never_passes_the_risk_limit_over_all_jobs(
        demands in proptest::collection::vec((0u8..3, 0u64..400, 0u64..400, any::<bool>()), 1..60),
    ) {
        let (mut payer, mut payee) = (payer(), payee());
        let history = payer.allot(job(9), RISK).unwrap();
        payee.apply(&sign(history)).unwrap();
        let mut tokens = [(0u64, 0u64); 3];
        for number in 0..3 {
            payee.open_job(job(number), prices(), DEPOSIT).unwrap();
        }
        for (number, more_in, more_out, pays) in demands {
            let at = &mut tokens[usize::from(number)];
            let next = (at.0 + more_in, at.1 + more_out);
            match payee.permit(&job(number), next.0, next.1).unwrap() {
                Permit::Go => {
                    payee.meter(&job(number), next.0, next.1).unwrap();
                    *at = next;
                }
                Permit::Pay { due } if pays => {
                    let signed = payee.job(&job(number)).unwrap().signed();
                    prop_assert!(due.0 - signed.0 <= RISK.0);
                    let draft = payer.allot(job(number), Wei(due.0 - signed.0)).unwrap();
                    payee.apply(&sign(draft)).unwrap();
                }
                Permit::Pay { .. } | Permit::Stop(_) => {}
            }
            let unpaid: u128 = (0..3).filter_map(|n| payee.job(&job(n))).map(|money| money.unpaid().0).sum();
            prop_assert!(unpaid <= RISK.0);
        }
        let written_off: u128 = (0..3).map(|n| payee.abort_job(&job(n)).unwrap().written_off.0).sum();
        prop_assert!(written_off <= RISK.0);
        prop_assert_eq!(payee.total(), payee.cumulative());
    }
}

#[test]
fn a_long_prompt_is_paid_in_steps_of_one_risk_limit_before_it_is_computed() {
    let (mut payer, mut payee) = (payer(), payee());
    payee.open_job(job(1), prices(), DEPOSIT).unwrap();
    let mut steps = 0;
    while let Permit::Pay { due } = payee.permit(&job(1), 4_500, 0).unwrap() {
        let signed = payee.job(&job(1)).unwrap().signed();
        let more = due.saturating_sub(signed);
        assert!(more <= RISK);
        payee.apply(&sign(payer.allot(job(1), more).unwrap())).unwrap();
        steps += 1;
    }
    // The last part stays within the limit once there is a history.
    assert_eq!(steps, 4);
    assert_eq!(payee.job(&job(1)).unwrap().signed(), Wei(4_000));
}

#[test]
fn a_gateway_that_left_work_unpaid_loses_its_credit_until_it_has_paid_ten_times_that() {
    let (mut payer, mut payee) = (payer(), payee());
    payee.apply(&sign(payer.allot(job(9), RISK).unwrap())).unwrap();
    payee.open_job(job(1), prices(), DEPOSIT).unwrap();
    assert_eq!(payee.permit(&job(1), 900, 0).unwrap(), Permit::Go);
    payee.meter(&job(1), 900, 0).unwrap();
    assert_eq!(payee.abort_job(&job(1)).unwrap().written_off, Wei(900));
    assert_eq!(payee.credit(), Wei::ZERO);
    payee.apply(&sign(payer.allot(job(8), Wei(9_000)).unwrap())).unwrap();
    assert_eq!(payee.credit(), RISK);
}

// row: MKT-31
#[test]
fn a_new_gateway_pays_first_and_its_credit_grows_with_what_it_paid() {
    let (mut payer, mut payee) = (payer(), payee());
    payee.open_job(job(1), prices(), DEPOSIT).unwrap();
    assert_eq!(payee.permit(&job(1), 10, 0).unwrap(), Permit::Pay { due: Wei(10) });
    payee.apply(&sign(payer.allot(job(1), Wei(10)).unwrap())).unwrap();
    assert_eq!(payee.credit(), Wei(10));
    // Ten paid and used: ten more on credit, the eleventh must be paid for.
    payee.meter(&job(1), 10, 0).unwrap();
    assert_eq!(payee.permit(&job(1), 20, 0).unwrap(), Permit::Go);
    assert_eq!(payee.permit(&job(1), 21, 0).unwrap(), Permit::Pay { due: Wei(21) });
    payee.apply(&sign(payer.allot(job(9), DEPOSIT.min(Wei(5_000))).unwrap())).unwrap();
    assert_eq!(payee.credit(), RISK);
}

#[test]
fn nothing_is_computed_that_deposit_or_maximum_cannot_pay() {
    let mut payee = payee();
    payee.open_job(job(1), prices(), Wei(50)).unwrap();
    assert_eq!(payee.permit(&job(1), 51, 0).unwrap(), Permit::Stop(StopReason::MaxCost));
    payee.open_job(job(2), prices(), Wei::MAX).unwrap();
    assert_eq!(payee.permit(&job(2), 1_000_001, 0).unwrap(), Permit::Stop(StopReason::Deposit));
}

#[test]
fn a_voucher_for_another_channel_signer_chain_or_beyond_the_deposit_is_refused() {
    let mut payee = payee();
    let amount = Wei(5);
    let frame = |voucher: HeldVoucher| VoucherFrame { voucher, increments: vec![(job(1), voucher.cumulative)] };
    let good = sign_voucher(&domain(), channel(), amount, &key());
    let other_channel = HeldVoucher { channel: ChannelId(B256::ZERO), ..good };
    assert!(matches!(payee.apply(&frame(other_channel)), Err(VoucherFault::Channel { .. })));
    let stranger = AccountKey::from_bytes(&[8; 32]).unwrap();
    let forged = sign_voucher(&domain(), channel(), amount, &stranger);
    assert!(matches!(payee.apply(&frame(forged)), Err(VoucherFault::Signer { .. })));
    let elsewhere = Domain { chain_id: 1, ..domain() };
    let replayed = sign_voucher(&elsewhere, channel(), amount, &key());
    assert!(matches!(payee.apply(&frame(replayed)), Err(VoucherFault::Signer { .. })));
    let above = sign_voucher(&domain(), channel(), Wei(DEPOSIT.0 + 1), &key());
    assert!(matches!(payee.apply(&frame(above)), Err(VoucherFault::AboveDeposit { .. })));
    let changed = HeldVoucher { cumulative: Wei(6), ..good };
    assert!(payee.apply(&frame(changed)).is_err());
    assert_eq!((payee.cumulative(), payee.total()), (Wei(0), Wei(0)));
    payee.apply(&frame(good)).unwrap();
    assert!(payee.apply(&frame(good)).unwrap().increments.is_empty());
    assert_eq!(payee.cumulative(), amount);
}

#[test]
fn increments_that_do_not_add_up_are_refused() {
    let mut payee = payee();
    let voucher = sign_voucher(&domain(), channel(), Wei(10), &key());
    let with = |increments: Vec<(JobId, Wei)>| VoucherFrame { voucher, increments };
    assert!(matches!(payee.apply(&with(vec![(job(1), Wei(11))])), Err(VoucherFault::Increments { .. })));
    assert!(matches!(payee.apply(&with(vec![(job(1), Wei(9))])), Err(VoucherFault::Gap { .. })));
    let zero = vec![(job(1), Wei(10)), (job(2), Wei(0))];
    assert!(matches!(payee.apply(&with(zero)), Err(VoucherFault::Increments { .. })));
    let huge = vec![(job(1), Wei::MAX), (job(2), Wei::MAX)];
    assert!(matches!(payee.apply(&with(huge)), Err(VoucherFault::Increments { .. })));
}

#[test]
fn a_gateway_adopts_its_own_higher_voucher_and_refuses_anybody_elses() {
    let mut payer = PayerChannel::restore(domain(), channel(), key().address(), DEPOSIT, [(job(1), Wei(10))]);
    let lost = sign_voucher(&domain(), channel(), Wei(25), &key());
    assert_eq!(payer.adopt(Some(&lost)).unwrap(), Wei(15));
    assert_eq!((payer.cumulative(), payer.total()), (Wei(25), Wei(25)));
    let stranger = AccountKey::from_bytes(&[8; 32]).unwrap();
    let forged = sign_voucher(&domain(), channel(), Wei(99), &stranger);
    assert!(matches!(payer.adopt(Some(&forged)), Err(PayerError::Voucher(VoucherFault::Signer { .. }))));
    let draft = payer.allot(job(2), Wei(5)).unwrap();
    assert_eq!((draft.cumulative, draft.increments), (Wei(30), vec![(job(2), Wei(5))]));
}

#[test]
fn a_gateway_never_promises_more_than_its_deposit() {
    let mut payer = payer();
    payer.allot(job(1), DEPOSIT).unwrap();
    assert!(matches!(payer.allot(job(1), Wei(1)), Err(PayerError::Short { .. })));
    payer.set_deposit(Wei(DEPOSIT.0 + 1));
    payer.allot(job(1), Wei(1)).unwrap();
}

#[test]
fn a_gateway_pays_its_own_count_and_not_the_providers_wishes() {
    let mut money = PayerJob::new(prices(), Wei(500), Wei(100), TokenBounds { prompt_max: 20 });
    assert_eq!(money.due(20, 0, Wei(20)).unwrap(), Wei(20));
    assert!(matches!(money.due(21, 0, Wei(21)), Err(PayerFault::PromptTokens { max: 20, actual: 21 })));
    assert!(matches!(money.due(20, 0, Wei(21)), Err(PayerFault::Overcharge { .. })));
    assert!(matches!(money.due(20, 480, Wei(121)), Err(PayerFault::Ahead { .. })));
    assert!(matches!(money.due(20, 481, Wei(501)), Err(PayerFault::MaxCost { .. })));
    money.signed(Wei(20));
    let overmetered = money.delivered(20, 400, 5);
    assert!(matches!(overmetered, Err(PayerFault::OutputTokens { .. })));
    money.delivered(20, 60, 60).unwrap();
    assert_eq!(money.pay_ahead_of_limit().unwrap(), Wei(60));
    assert!(money.delivered(20, 59, 0).is_err());
    money.finish(JobState::Complete);
    assert!(matches!(money.due(20, 60, Wei(80)), Err(PayerFault::State { .. })));
}

#[test]
fn a_job_completes_only_when_its_cost_is_paid_and_late_money_still_counts() {
    let (mut payer, mut payee) = (payer(), payee());
    payee.open_job(job(1), prices(), DEPOSIT).unwrap();
    payee.apply(&sign(payer.allot(job(1), Wei(30)).unwrap())).unwrap();
    payee.meter(&job(1), 20, 11).unwrap();
    assert_eq!(payee.sign_job(&job(1)).unwrap(), Wei(31));
    assert!(matches!(payee.complete_job(&job(1), Wei(31)), Err(PayeeError::Unpaid { .. })));
    let outcome = payee.abort_job(&job(1)).unwrap();
    assert_eq!((outcome.cost, outcome.written_off), (Wei(30), Wei(1)));
    payee.apply(&sign(payer.allot(job(1), Wei(1)).unwrap())).unwrap();
    assert_eq!((payee.total(), payee.arrears()), (Wei(31), Wei(0)));
}
