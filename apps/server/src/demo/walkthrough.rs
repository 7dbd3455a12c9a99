//! What the demo says: where everything is, and the story as commands to paste.

use std::fmt;
use std::path::Path;

use super::{ADDRESS, MAILBOX, REQUEST_TOKEN, Scene, THREEPIDS};

/// The demo's first screen. Every command in it works in `sh` as it stands.
#[derive(Debug)]
pub(crate) struct Walkthrough<'a> {
    pub(crate) scene: &'a Scene,
    /// Where the database and the server's key are.
    pub(crate) folder: &'a Path,
    /// Whether the folder goes with the demo.
    pub(crate) is_temporary: bool,
}

impl fmt::Display for Walkthrough<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scene { alice, bob, client_secret, .. } = self.scene;
        let fate = if self.is_temporary { "goes with the demo; --folder DIR keeps one" } else { "stays" };
        let (mailbox, threepids) = (self.scene.url(MAILBOX), self.scene.url(THREEPIDS));
        let request_token = self.scene.url(REQUEST_TOKEN);
        let token = alice.token.expose();
        write!(
            f,
            r#"threepid demo

  server    {base}
  mailbox   {mailbox}
  folder    {folder} ({fate})
  accounts  {alice}  access token {token}
            {bob}    access token {bobs_token}
  limits    as by default: five mails at once, then one in five and a half minutes

Alice adds {ADDRESS} to her account. Paste the commands into another terminal, one after the other.

1. What she has so far: nothing.

curl -sS -H 'Authorization: Bearer {token}' '{threepids}'

2. She asks for a mail. The answer is the session's id, which is kept for step 4.

SID=$(curl -sS -H 'Authorization: Bearer {token}' -d '{{"client_secret":"{client_secret}","email":"{ADDRESS}","send_attempt":1}}' '{request_token}' | sed 's/.*"sid":"\([^"]*\)".*/\1/'); echo "$SID"

3. She opens the mail at {mailbox}, follows the link and confirms. Or without a browser:

LINK=$(curl -sS '{mailbox}' | grep -o 'http[^"]*/_threepid/confirm[^"]*' | head -n 1 | sed 's/&amp;/\&/g'); curl -sS -d "${{LINK#*[?]}}" "${{LINK%%[?]*}}" | grep '<h1>'

4. She adds the address that she has proven.

curl -sS -H 'Authorization: Bearer {token}' -d "{{\"three_pid_creds\":{{\"client_secret\":\"{client_secret}\",\"sid\":\"$SID\"}}}}" '{threepids}'

5. And there it is.

curl -sS -H 'Authorization: Bearer {token}' '{threepids}'

6. Bob cannot have it, too.

curl -sS -H 'Authorization: Bearer {bobs_token}' -d '{{"client_secret":"{client_secret}","email":"{ADDRESS}","send_attempt":1}}' '{request_token}'

Ctrl-C stops the demo. `threepid demo --play` tells this story by itself.
"#,
            base = self.scene.url(""),
            folder = self.folder.display(),
            alice = alice.user,
            bob = bob.user,
            bobs_token = bob.token.expose(),
        )
    }
}
