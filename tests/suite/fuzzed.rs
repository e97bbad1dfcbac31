//! The fuzz targets over rows of seeds: they compile, and what was found once stays found.

#[path = "../fuzz/targets/api_key.rs"]
mod api_key;
#[path = "../fuzz/targets/jws.rs"]
mod jws;
#[path = "../fuzz/targets/key_set.rs"]
mod key_set;
#[path = "../fuzz/targets/path.rs"]
mod path;
#[path = "../fuzz/targets/signed.rs"]
mod signed;
#[path = "../fuzz/targets/status_list.rs"]
mod status_list;
#[path = "../fuzz/targets/token.rs"]
mod token;

use proptest::prelude::*;

use crate::support::issuer::{TestIssuer, jwks};

/// Bytes that say something to one of the targets, or nearly.
const SEEDS: &[&[u8]] = &[
    b"",
    b"a.b.c",
    b"..",
    br#"{"alg":"EdDSA"}"#,
    br#"{"alg":"EdDSA","typ":"JWT","crit":[]}"#,
    br#"{"alg":"EdDSA","alg":"EdDSA"}"#,
    br#"{"iss":"https://issuer.test","sub":"a","aud":"orders","iat":1800000000,"exp":1800000060}"#,
    br#"{"iss":"https://issuer.test","sub":"a","aud":["orders"],"exp":1800000060.5,"cnf":{"jkt":"x"}}"#,
    br#"{"iss":"https://issuer.test","sub":"a","aud":"orders","exp":1800003631}"#,
    br#"{"typ":"dpop+jwt","alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}"#,
    br#"{"keys":[]}"#,
    br#"{"keys":[{"kty":"oct","k":"AAAA"},{"kid":"a"},{"kid":"a"}]}"#,
    b"spiffe://td/a",
    b"ptrv_0123456789abcdef_0_0",
    b"\x00\x78\x9c\xdb\xb9\x18\x00\x02\x17\x01\x5d",
];

#[test]
fn seeds_break_nothing() {
    for one in SEEDS {
        api_key::run(one);
        jws::run(one);
        key_set::run(one);
        path::run(one);
        status_list::run(one);
        signed::header(one);
        for profile in 0..7 {
            token::run((profile, one));
            signed::claims((profile, one));
        }
        for other in SEEDS {
            signed::proof((one, other, b"s"));
        }
    }
    for key in [TestIssuer::es256(), TestIssuer::rs256(), TestIssuer::eddsa()] {
        key_set::run(&jwks(&[key.jwk()]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn a_plainer_reader_reads_the_same(
        raw in "/?(%[0-9a-fA-F]{2}|%2[eEfF]|%5[cC]|%[cC]3%[aA]4|[./;?#%\\\\+a-cA-C~*:|\" ä\u{7f}\u{0}]){0,12}",
    ) {
        path::run(raw.as_bytes());
    }
}
