package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"barrage/server/admin"
	"barrage/server/backing"
	"barrage/server/fdtable"
)

// servicesConfig is the backing services with their admin page.
type servicesConfig struct {
	Backing backing.Config `toml:",inline"`
	Admin   admin.Config   `toml:"admin"`
}

func defaultServicesConfig() servicesConfig {
	return servicesConfig{Backing: backing.DefaultConfig(), Admin: admin.DefaultConfig("services")}
}

func runServices(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fdtable.CalmMonitor()
	return serve(ctx, "services", defaultServicesConfig(), nil, args, stdout, stderr,
		func(ctx context.Context, p *process, cfg servicesConfig) (err error) {
			page := p.admin(cfg.Admin, "services")
			if err := page.Listen(); err != nil {
				return usageError{err}
			}
			services, err := startServices(ctx, p, cfg.Backing, page)
			if err != nil {
				return usageError{err}
			}
			fmt.Fprintf(stdout, "barrage services: ready: kafka %s, redis %s, discovery %s, admin %s\n",
				services.KafkaBrokers(), services.RedisAddr(), services.DiscoveryAddr(), addrOf(page))
			return runParts(ctx, servicesPart(services), part{"services admin page", page.Run})
		})
}

// startServices starts the backing services and has page say where they are.
func startServices(ctx context.Context, p *process, cfg backing.Config, page *admin.Server) (*backing.Services, error) {
	log := p.log.With("role", "services")
	services, err := backing.Start(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(map[string]string{
		"kafka":     services.KafkaBrokers(),
		"redis":     services.RedisAddr(),
		"discovery": services.DiscoveryAddr(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode the services' addresses: %w", err)
	}
	handleJSON(page, "GET /services", text, log)
	return services, nil
}

// servicesPart keeps the backing services until it is stopped.
func servicesPart(services *backing.Services) part {
	return part{"services", func(ctx context.Context) error {
		<-ctx.Done()
		return services.Close()
	}}
}
