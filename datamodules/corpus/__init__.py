"""Large corpora: divided into shards that several processes encode, each of which is kept once it is done."""
