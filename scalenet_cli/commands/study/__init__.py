"""The parts of ``compare``: arms, their plans and cost, cells, jobs, results."""
