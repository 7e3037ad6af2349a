//! Bounds and the file.

use super::*;
use proptest::prelude::*;

const MAGIC: u32 = 9;

fn provider(key: u32, ip: [u8; 4]) -> ProviderRecord {
    let mut bytes = [0; KEY_BYTES];
    bytes[..4].copy_from_slice(&key.to_be_bytes());
    let address = format!("/ip4/{}.{}.{}.{}/udp/9700/quic-v1", ip[0], ip[1], ip[2], ip[3]).parse().unwrap();
    ProviderRecord::new(RecordKey::new(&bytes), PeerId::random(), vec![address])
}

fn key(number: u32) -> RecordKey {
    provider(number, [11, 0, 0, 1]).key
}

// row: NET-35
#[test]
fn one_partys_addresses_take_a_few_places_of_a_key_and_all_together_take_no_more_than_there_are() {
    let mut store = ProviderStore::new(PeerId::random());
    let honest = provider(1, [12, 0, 0, 1]);
    store.add_provider(honest.clone()).unwrap();
    for n in 0..100u8 {
        store.add_provider(provider(1, [11, 0, n, 1])).unwrap();
    }
    let kept = store.providers(&key(1));
    assert_eq!(kept.len(), 1 + PROVIDERS_PER_GROUP_MAX);
    assert!(kept.contains(&honest));
    for n in 20..120u8 {
        store.add_provider(provider(1, [n, 7, 0, 1])).unwrap();
    }
    assert_eq!(store.providers(&key(1)).len(), PROVIDERS_PER_KEY_MAX);
}

// row: NET-35
#[test]
fn keys_addresses_and_values_are_bounded() {
    let mut store = ProviderStore::new(PeerId::random());
    let long = format!("/dns4/{}/udp/1/quic-v1", "a".repeat(200)).parse::<Multiaddr>().unwrap();
    let mut talker = provider(0, [11, 0, 0, 1]);
    talker.addresses = (1..9u8).map(|n| format!("/ip4/11.0.0.{n}/udp/1/quic-v1").parse().unwrap()).collect();
    talker.addresses.insert(0, long);
    store.add_provider(talker).unwrap();
    let kept = &store.providers(&key(0))[0];
    assert_eq!(kept.addresses.len(), PROVIDER_ADDRESSES_MAX);
    assert!(kept.addresses.iter().all(|address| address.len() <= ADDRESS_BYTES_MAX));
    let busy = PeerId::random();
    let of =
        |provider_of: PeerId, number: u32| ProviderRecord { provider: provider_of, ..provider(number, [11, 0, 0, 1]) };
    for n in 1..u32::try_from(KEYS_MAX).unwrap() {
        store.add_provider(of(busy, n)).unwrap();
    }
    assert!(store.add_provider(of(busy, u32::MAX)).is_err());
    // Others are not shut out by one that has a great many keys.
    let other = PeerId::random();
    store.add_provider(of(other, u32::MAX)).unwrap();
    assert_eq!(store.providers(&key(u32::MAX))[0].provider, other);
    assert_eq!(store.inner.lock().keys.len(), KEYS_MAX);
    store.add_provider(provider(3, [12, 0, 0, 1])).unwrap();
    let short = ProviderRecord::new(RecordKey::new(b"short"), PeerId::random(), Vec::new());
    assert!(store.add_provider(short).is_err());
    assert!(store.put(Record::new(key(1), vec![1])).is_err() && store.get(&key(1)).is_none());
}

// row: NET-35
#[test]
fn what_is_kept_outlives_a_restart_and_nothing_outlives_its_time() {
    let (now, local) = (UnixMs(1_000_000), PeerId::random());
    let mut store = ProviderStore::new(local);
    store.add_provider(provider(1, [11, 0, 0, 1])).unwrap();
    store.add_provider(ProviderRecord::new(key(1), local, Vec::new())).unwrap();
    assert!(store.take_changed() && !store.take_changed());
    let bytes = store.encode(MAGIC, now);
    let mut again = ProviderStore::new(local);
    again.restore(&bytes, MAGIC, now.plus_ms(1_000)).unwrap();
    let (before, after) = (store.providers(&key(1)), again.providers(&key(1)));
    assert_eq!((before.len(), after.len()), (2, 1), "its own records a node announces anew");
    assert_eq!(after[0].addresses, before[1].addresses);
    let late = ProviderStore::new(local);
    late.restore(&bytes, MAGIC, now.plus_ms(2 * PROVIDER_TTL_MS)).unwrap();
    assert!(late.is_empty());
    again.remove_provider(&key(1), &after[0].provider);
    assert!(again.is_empty());
    assert!(matches!(late.restore(&bytes, MAGIC + 1, now), Err(RecordsFileError::OtherNetwork { .. })));
    let mut torn = bytes;
    torn.pop();
    assert!(matches!(late.restore(&torn, MAGIC, now), Err(RecordsFileError::Damaged(_))));
}

proptest! {
    // row: NET-35, NET-56
    #[test]
    fn no_file_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), whole in any::<bool>()) {
        let store = ProviderStore::new(PeerId::random());
        let mut file = bytes.clone();
        if whole {
            file = RECORDS_FILE_MAGIC.to_vec();
            file.extend(RECORDS_FILE_VERSION.to_be_bytes());
            file.extend(trellis_crypto::sha3_256(&[&bytes]));
            file.extend(&bytes);
        }
        let _ = store.restore(&file, MAGIC, UnixMs(1));
        prop_assert!(store.len() <= KEYS_MAX * PROVIDERS_PER_KEY_MAX);
    }
}
