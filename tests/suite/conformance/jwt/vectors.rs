//! Published vectors: RFC 7515 appendix A, RFC 7638 §3.1, RFC 8037 appendix A.

use portreeve::core::credential::{Algorithm, Jws, KeySet};

use crate::support::issuer::base64url;

const PAYLOAD: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

const RFC7515_A2_KEY: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
const RFC7515_A2_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

const RFC7515_A3_KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
const RFC7515_A3_SIGNATURE: &str =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

const RFC8037_KEY: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const RFC8037_TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

const RFC7638_KEY: &str = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;

fn set(jwk: &str) -> KeySet {
    KeySet::parse(format!("{{\"keys\":[{jwk}]}}").as_bytes(), &Algorithm::ALL)
}

#[test]
fn signatures() {
    let rs256 = format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}.{RFC7515_A2_SIGNATURE}");
    let es256 = format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}.{RFC7515_A3_SIGNATURE}");
    let rows = [
        ("RFC 7515 A.2", RFC7515_A2_KEY, rs256.as_str(), Algorithm::Rs256),
        ("RFC 7515 A.3", RFC7515_A3_KEY, es256.as_str(), Algorithm::Es256),
        ("RFC 8037 A.4", RFC8037_KEY, RFC8037_TOKEN, Algorithm::EdDsa),
    ];
    for (clause, key, token, algorithm) in rows {
        let (set, jws) = (set(key), Jws::parse(token.as_bytes()).unwrap());
        assert_eq!(jws.algorithm(), algorithm.as_str(), "{clause}");
        let key = set.find(jws.key_id(), algorithm).unwrap();
        assert!(key.verify(jws.signing_input(), jws.signature()), "{clause}");
        let mut other = jws.signing_input().to_vec();
        other[30] ^= 1;
        assert!(!key.verify(&other, jws.signature()), "{clause}, changed");
    }
}

#[test]
fn thumbprints() {
    let rows = [
        ("RFC 7638 3.1", RFC7638_KEY, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
        ("RFC 8037 A.3", RFC8037_KEY, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
        // Computed apart from this code, over the members that RFC 7638 §3.2 names for EC keys.
        ("RFC 7515 A.3", RFC7515_A3_KEY, "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"),
    ];
    for (clause, key, expected) in rows {
        let set = set(key);
        let found: Vec<_> = set.keys().iter().map(|key| base64url(key.thumbprint())).collect();
        assert_eq!(found, [expected], "{clause}");
    }
}
