BEGIN TRANSACTION;
CREATE TABLE aliases (
        model TEXT NOT NULL,
        alias TEXT NOT NULL,
        number INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        PRIMARY KEY (model, alias),
        FOREIGN KEY (model, number) REFERENCES versions (model, number));
INSERT INTO "aliases" VALUES('digits','latest',1,1);
INSERT INTO "aliases" VALUES('digits','production',1,1);
CREATE TABLE api_keys (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key_id TEXT NOT NULL UNIQUE,
        secret_hash TEXT NOT NULL,
        name TEXT NOT NULL,
        scopes TEXT NOT NULL,
        created_at_s REAL NOT NULL,
        expires_at_s REAL NOT NULL);
CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        at_s REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        object TEXT NOT NULL,
        fields TEXT NOT NULL,
        hash TEXT NOT NULL);
INSERT INTO "audit" VALUES(1,40.75,'operator/ada','token_create','worker/pi-7','{"token":"t1","life_s":3600.0,"roles":["worker"],"note":null}','399c015052b0043be92a3d937f675fe3ba41876f512a170bc3b4c9f55592371c');
CREATE TABLE certificates (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        serial TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        issued_at_s REAL NOT NULL,
        expires_at_s REAL NOT NULL,
        revoked INTEGER NOT NULL);
CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL REFERENCES runs (run_id),
        round INTEGER NOT NULL,
        at_s REAL NOT NULL,
        kind TEXT NOT NULL,
        fields TEXT NOT NULL);
INSERT INTO "events" VALUES(1,'run-1',1,101.25,'note','{"workers":["a","b"],"loss":0.25,"text":"gr\u00fc\u00dfe","none":null}');
INSERT INTO "events" VALUES(2,'run-1',1,101.25,'update','{"workers":["a","b"],"loss":0.25,"text":"gr\u00fc\u00dfe","none":null}');
INSERT INTO "events" VALUES(3,'run-1',1,104.0,'round_committed','{"workers":["a","b"],"loss":0.25,"text":"gr\u00fc\u00dfe","none":null}');
INSERT INTO "events" VALUES(4,'run-2',1,101.25,'note','{"workers":["a","b"],"loss":0.25,"text":"gr\u00fc\u00dfe","none":null}');
CREATE TABLE lease (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        token INTEGER NOT NULL,
        holder TEXT NOT NULL,
        beat INTEGER NOT NULL,
        lasts_s REAL NOT NULL);
INSERT INTO "lease" VALUES(1,1,'',1,5.0);
CREATE TABLE registry_events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        model TEXT NOT NULL,
        number INTEGER NOT NULL,
        alias TEXT NOT NULL);
INSERT INTO "registry_events" VALUES(1,'version','digits',1,'');
INSERT INTO "registry_events" VALUES(2,'alias','digits',1,'latest');
INSERT INTO "registry_events" VALUES(3,'alias','digits',1,'production');
CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL UNIQUE,
        model TEXT NOT NULL,
        recipe TEXT NOT NULL,
        state TEXT NOT NULL,
        rounds INTEGER NOT NULL,
        created_at_s REAL NOT NULL,
        updated_at_s REAL NOT NULL,
        round INTEGER NOT NULL,
        code TEXT NOT NULL,
        reason TEXT NOT NULL,
        memory_digest TEXT NOT NULL DEFAULT '');
INSERT INTO "runs" VALUES(1,'run-1','digits','[model]
name = "mlp"
','queued',3,100.5,104.0,1,'','','');
INSERT INTO "runs" VALUES(2,'run-2','digits','[model]
name = "mlp"
','queued',3,100.5,100.5,0,'','','');
CREATE TABLE schemas (digest TEXT PRIMARY KEY, params TEXT NOT NULL);
INSERT INTO "schemas" VALUES('0f28c79673e288cdbda6663e87403827ef2d8f96c72650911a2abdf4feed620c','[{"name":"dense.weight","shape":[10,64],"kind":"trainable"},{"name":"norm.mean","shape":[10],"kind":"statistic"},{"name":"norm.batches","shape":[],"kind":"counter"}]');
CREATE TABLE tokens (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        token_id TEXT NOT NULL UNIQUE,
        secret_hash TEXT NOT NULL,
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        created_at_s REAL NOT NULL,
        expires_at_s REAL NOT NULL);
INSERT INTO "tokens" VALUES(1,'old','cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4','worker','pi-8',10.5,3610.5);
CREATE TABLE updates (
        run_id TEXT NOT NULL REFERENCES runs (run_id),
        round INTEGER NOT NULL,
        assignment_id TEXT NOT NULL,
        worker_id TEXT NOT NULL,
        header TEXT NOT NULL,
        digest TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        accepted_at_s REAL NOT NULL,
        PRIMARY KEY (run_id, round, assignment_id));
INSERT INTO "updates" VALUES('run-1',1,'run-1/1/a','a','{"weight":12.0,"sections":[{"name":"trainable","elements":640}]}','239f59ed55e737c77147cf55ad0c1b030b6d7ee748a7426952f9b852d5a935e5',7,102.0);
CREATE TABLE versions (
        model TEXT NOT NULL,
        number INTEGER NOT NULL,
        digest TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        schema_digest TEXT NOT NULL REFERENCES schemas (digest),
        run_id TEXT NOT NULL,
        round INTEGER NOT NULL,
        parent INTEGER,
        created_at_s REAL NOT NULL,
        card TEXT NOT NULL,
        metrics TEXT NOT NULL, signature TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (model, number));
INSERT INTO "versions" VALUES('digits',1,'9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c',7,'0f28c79673e288cdbda6663e87403827ef2d8f96c72650911a2abdf4feed620c','run-1',1,NULL,103.0,'{"model":{"name":"mlp"},"classes":["zero","one"]}','{"accuracy":0.5}','abababababababababababababababababababababababababababababababababababababababababababababababababababababababababababababababab');
CREATE INDEX events_of_run ON events (run_id, id);
CREATE INDEX updates_of_blob ON updates (digest);
CREATE INDEX versions_of_blob ON versions (digest);
CREATE INDEX updates_of_assignment ON updates (run_id, assignment_id, round);
CREATE INDEX certificates_of_name ON certificates (role, name);
CREATE INDEX certificates_by_end ON certificates (expires_at_s);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('runs',2);
INSERT INTO "sqlite_sequence" VALUES('events',4);
INSERT INTO "sqlite_sequence" VALUES('registry_events',3);
INSERT INTO "sqlite_sequence" VALUES('tokens',1);
COMMIT;
PRAGMA user_version = 2;
