//! Many clients that ask once and stay.

use serde_json::{Value, json};

use super::http::{Connection, get};
use super::load::THREEPIDS;
use super::{end_of_orders, number, tell, text};
use crate::Outcome;

pub(super) async fn run(settings: &Value) -> Outcome<()> {
    let (address, request) = (text(settings, "address")?, get(THREEPIDS, text(settings, "token")?));
    let mut held = Vec::new();
    for _ in 0..number(settings, "connections")? {
        let mut connection = Connection::open(address).await?;
        let status = connection.ask(&request).await?.status;
        if status != 200 {
            return Err(format!("a client that stays was answered {status}").into());
        }
        held.push(connection);
    }
    tell(&json!({ "held": held.len() }));
    end_of_orders().await;
    Ok(())
}
