package job

import (
	"strings"
	"testing"
	"time"
)

func TestDefaultConfigIsValid(t *testing.T) {
	c := DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	tests := []struct {
		change func(*Config)
		want   []string
	}{
		{func(c *Config) { c.Kafka.Topic = "" }, []string{"kafka.topic"}},
		{func(c *Config) { c.Kafka.Group = "" }, []string{"kafka.group"}},
		{func(c *Config) { c.Kafka.Brokers = nil }, []string{"kafka.brokers", "host:port"}},
		{func(c *Config) { c.Kafka.OffsetReset = "newest" }, []string{"kafka.offsetReset", "earliest", "latest"}},
		{func(c *Config) { c.Kafka.SessionTimeout = time.Millisecond }, []string{"kafka.sessionTimeout", "1s to 30m"}},
		{func(c *Config) { c.Kafka.MaxPollInterval = time.Second }, []string{"kafka.maxPollInterval", "10s"}},
		{func(c *Config) { c.Kafka.Window = 0 }, []string{"kafka.window"}},
		{func(c *Config) { c.Kafka.Options = []string{"enable.auto.commit=false"} }, []string{"kafka.options", "enable.auto.commit"}},
		{func(c *Config) { c.Kafka.Options = []string{"a=b", "sasl.password:secret"} }, []string{"kafka.options: number 2 is not key=value"}},
		{func(c *Config) { c.Comet.RPCTimeout = 0 }, []string{"comet.rpcTimeout", "100ms to 10m"}},
		{func(c *Config) { c.Comet.BackoffMax = time.Millisecond }, []string{"comet.backoffMax", "20ms"}},
		{func(c *Config) { c.Lane.Count = 0 }, []string{"lane.count", "1 to 256"}},
		{func(c *Config) { c.Lane.QueueBytes = 1 }, []string{"lane.queueBytes"}},
		{func(c *Config) { c.Lane.BatchBytes = 16 << 20 }, []string{"lane.batchBytes"}},
		{func(c *Config) { c.Drain.Timeout = -1; c.Lane.BatchFrames = 0 }, []string{"drain.timeout", "lane.batchFrames"}},
	}
	for _, tt := range tests {
		c := DefaultConfig()
		tt.change(&c)
		err := c.Validate()
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want it to say %q", err, want)
			}
		}
	}
}
