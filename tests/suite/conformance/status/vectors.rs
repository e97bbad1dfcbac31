//! The draft's own vectors, §4 and appendix C: two short lists, and one of 2^20 values for each size.

use portreeve::core::credential::verify_status_list;
use portreeve::core::identity::StatusList;
use serde_json::{Value, json};

use super::{NOW, URI, list_header, now};
use crate::support::issuer::TestIssuer;
use crate::support::world::name;

const VECTORS: &str = include_str!("vectors.json");

#[test]
fn the_drafts_lists_read_as_it_says() {
    let issuer = TestIssuer::es256();
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    assert_eq!(vectors.len(), 6);
    for vector in vectors {
        let (bits, lst) = (&vector["bits"], &vector["lst"]);
        let claims = json!({ "sub": URI, "iat": NOW, "status_list": { "bits": bits, "lst": lst } });
        let token = issuer.sign(&list_header(&issuer), &claims);
        let token = verify_status_list(token.as_bytes(), URI, &issuer.record(), now()).unwrap();
        assert_eq!(json!(token.bits.count()), *bits);
        let mut list = StatusList::withdrawn(name("main"), URI.into());
        list.bits = token.bits;
        let list = list.with_values(token.packed).unwrap();
        let mut others = 0;
        let values = vector["values"].as_array().unwrap();
        for place in values {
            let (index, value) = (place[0].as_u64().unwrap(), place[1].as_u64().unwrap());
            assert_eq!(list.value(index).map(u64::from), Some(value), "{bits} bits, {index}");
            others += u64::from(value != 0);
        }
        let set = (0..list.entries()).filter(|index| list.value(*index) != Some(0)).count() as u64;
        assert_eq!(set, others, "{bits} bits: no others");
        assert!(list.entries() == 1 << 20 || list.entries() == values.len() as u64);
        assert_eq!(list.value(list.entries()), None);
    }
}
