package comet

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// tables is limit.descriptorTables of the tests' comets where they don't say another and have
// no TLS.
var tables int

// TestMain runs all tests twice: with all descriptors in the process's table, and with those of
// sessions in tables of their own.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if code == 0 && flag.Lookup("test.bench").Value.String() == "" && flag.Lookup("test.fuzz").Value.String() == "" {
		tables = 3
		fmt.Println("again, with", tables, "tables of descriptors:")
		code = m.Run()
	}
	os.Exit(code)
}
