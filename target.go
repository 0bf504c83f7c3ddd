package main

import (
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"

	"barrage/harness/cluster"
)

// pushKeyVariable is the environment variable with the key of a target's push API.
const pushKeyVariable = "BARRAGE_PUSH_KEY"

// targetFlags name a cluster that runs already.
type targetFlags struct {
	at      string
	keyFile string // of the push API's key
	ca      string // that signs the push API's certificate
}

// add adds the flags to a command's.
func (t *targetFlags) add(flags *flag.FlagSet) {
	flags.StringVar(&t.at, "target", "", "drive a `cluster` that runs already, goim's or ours: tcp=HOST:PORT,ws=HOST:PORT,push=HOST:PORT, where push may be a URL too, http://HOST:PORT or https://HOST:PORT/PATH, and for what its processes use metrics=[ROLE@]HOST:PORT, or [ROLE@]URL, for each of them; pprof=ROLE@HOST:PORT for one that has nothing but Go's profiles")
	flags.StringVar(&t.keyFile, "push-key-file", "", "`file` of the key or JSON web token that the target's push API asks for; it is in "+pushKeyVariable+" otherwise")
	flags.StringVar(&t.ca, "push-ca", "", "PEM `file` of the authorities that sign the certificate of the target's push API; without it, those of the system")
}

// read returns what the flags say, nil where they name no target. other says that another flag names
// one.
func (t *targetFlags) read(other bool) (*cluster.Target, error) {
	if t.at == "" {
		if !other && (t.keyFile != "" || t.ca != "") {
			return nil, errors.New("-push-key-file and -push-ca are about a target, and none is named (-target)")
		}
		return nil, nil
	}
	return t.parse(t.at)
}

// parse reads a target as -target has it; each has the same key and authorities.
func (t *targetFlags) parse(text string) (*cluster.Target, error) {
	target, err := cluster.ParseTarget(text)
	if err != nil {
		return nil, err
	}
	key, err := readSecret("push key", t.keyFile, pushKeyVariable)
	if err != nil {
		return nil, err
	}
	var roots *x509.CertPool
	if t.ca != "" {
		text, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fmt.Errorf("-push-ca: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("-push-ca: %s has no certificate in PEM", t.ca)
		}
	}
	return target, target.Secure(key, roots)
}
