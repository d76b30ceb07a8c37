use std::collections::VecDeque;

use super::*;
use proptest::prelude::*;

#[test]
fn rfc7541_a_static_entries() {
    assert_eq!(static_field(0), None);
    assert_eq!(static_field(1), Some((&b":authority"[..], &b""[..])));
    assert_eq!(static_field(8), Some((&b":status"[..], &b"200"[..])));
    assert_eq!(static_field(61), Some((&b"www-authenticate"[..], &b""[..])));
    assert_eq!(static_field(62), None);
}

#[test]
fn every_static_name_is_found_at_its_first_index() {
    for index in 1..=STATIC_ENTRIES {
        let (name, _) = static_field(index).unwrap();
        let first = (1..).find(|&i| static_field(i).unwrap().0 == name);
        assert_eq!(static_index_of(name), first);
    }
    for name in [
        "",
        "x",
        ":",
        "x-forwarded-for",
        "content-typf",
        "www-authenticatf",
        "Date",
    ] {
        assert_eq!(static_index_of(name.as_bytes()), None, "{name}");
    }
}

#[test]
fn rfc7541_4_4_a_field_larger_than_the_table_empties_it() {
    let mut table = DynamicTable::new(100);
    table.insert(b"a", b"b");
    assert_eq!((table.len(), table.size()), (1, 34));
    table.insert(&[b'n'; 40], &[b'v'; 29]);
    assert_eq!((table.len(), table.size()), (0, 0));
    table.insert(&[b'n'; 40], &[b'v'; 28]);
    assert_eq!((table.len(), table.size()), (1, 100));
}

#[test]
fn rfc7541_4_3_a_smaller_table_evicts_the_oldest() {
    let mut table = DynamicTable::new(200);
    for name in [b"a", b"b", b"c"] {
        table.insert(name, b"v");
    }
    table.set_size_max(70);
    assert_eq!(table.get(0), Some((&b"c"[..], &b"v"[..])));
    assert_eq!(table.get(1), Some((&b"b"[..], &b"v"[..])));
    assert_eq!(table.get(2), None);
    table.set_size_max(0);
    assert!(table.is_empty());
    table.insert(b"", b"");
    assert!(table.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<u8>, Vec<u8>),
    Resize(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let text = || prop::collection::vec(any::<u8>(), 0..60);
    prop_oneof![
        12 => (text(), text()).prop_map(|(name, value)| Step::Insert(name, value)),
        1 => (0..400_usize).prop_map(Step::Resize),
    ]
}

proptest! {
    #[test]
    fn it_behaves_like_a_list_of_fields(steps in prop::collection::vec(step(), 0..120)) {
        let mut table = DynamicTable::new(300);
        let mut model: VecDeque<(Vec<u8>, Vec<u8>)> = VecDeque::new();
        let mut size_max = 300;
        for step in steps {
            let mut fits = true;
            match step {
                Step::Insert(name, value) => {
                    table.insert(&name, &value);
                    fits = field_size(&name, &value) <= size_max;
                    model.push_front((name, value));
                }
                Step::Resize(bytes) => {
                    table.set_size_max(bytes);
                    size_max = bytes;
                }
            }
            let size = |m: &VecDeque<(Vec<u8>, Vec<u8>)>| -> usize {
                m.iter().map(|(n, v)| n.len() + v.len() + 32).sum()
            };
            while !fits || size(&model) > size_max {
                fits = model.pop_back().is_none() || fits;
            }
            prop_assert_eq!(table.size(), size(&model));
            prop_assert!(table.text.len() <= 2 * size_max);
            let fields: Vec<_> = table.iter().collect();
            let expected: Vec<_> = model.iter().map(|(n, v)| (&n[..], &v[..])).collect();
            prop_assert_eq!(fields, expected);
        }
    }
}
