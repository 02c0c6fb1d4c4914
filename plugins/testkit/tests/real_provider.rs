//! The real provider starts, grants and rotates.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use portcullis_testkit::client::{head, once};
use portcullis_testkit::{RealProvider, Rotation};

#[tokio::test]
async fn oidc_provider_grants_rotates_and_ends() {
    let Some(provider) = RealProvider::start().await else { return };
    let address = provider.issuer().trim_start_matches("http://").parse().unwrap();
    let keys = async || {
        let response = once(address, head("GET", "provider", "/jwks", &[("connection", "close")])).await.unwrap();
        let set = response.json().ok().and_then(|set| Some(set["keys"].as_array()?.len()));
        (response.status, set)
    };
    let before = keys().await.1.unwrap();
    for resource in ["rs256", "ps256", "es256", "es384", "es512", "eddsa"] {
        assert_eq!(provider.token(resource, "api:read").await.unwrap().split('.').count(), 3, "{resource}");
    }
    assert!(provider.token("unknown", "api:read").await.is_err());
    provider.rotate(Rotation::Overlap).await.unwrap();
    assert_eq!(keys().await.1, Some(2 * before));
    provider.rotate(Rotation::HardCut).await.unwrap();
    assert_eq!(keys().await.1, Some(before));
    provider.fail("/jwks", 503, 1).await.unwrap();
    assert_eq!(keys().await.0, 503);
    assert_eq!(keys().await.0, 200);
    provider.heal().await.unwrap();
    assert!(provider.requests("/jwks").await.unwrap() >= 4);
    drop(provider);
    portcullis_testkit::until("the end of node", || std::net::TcpStream::connect(address).is_err()).await.unwrap();
}
