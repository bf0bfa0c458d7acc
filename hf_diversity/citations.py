"""BibTeX of the sources of the measures."""

WLD_REG_BIBTEX = """@inproceedings{laakom2023wldreg,
  title     = {{WLD-Reg}: A Data-Dependent Within-Layer Diversity Regularizer},
  author    = {Laakom, Firas and Raitoharju, Jenni and Iosifidis, Alexandros and Gabbouj, Moncef},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  volume    = {37},
  year      = {2023},
  doi       = {10.1609/aaai.v37i7.26015},
}"""

DECOV_BIBTEX = """@inproceedings{cogswell2016decov,
  title     = {Reducing Overfitting in Deep Networks by Decorrelating Representations},
  author    = {Cogswell, Michael and Ahmed, Faruk and Girshick, Ross and Zitnick, Larry and Batra, Dhruv},
  booktitle = {International Conference on Learning Representations},
  year      = {2016},
}"""

VCREG_BIBTEX = """@misc{zhu2023vcreg,
  title         = {Variance-Covariance Regularization Improves Representation Learning},
  author        = {Zhu, Jiachen and Evtimova, Katrina and Chen, Yubei and Shwartz-Ziv, Ravid and LeCun, Yann},
  year          = {2023},
  eprint        = {2306.13292},
  archiveprefix = {arXiv},
}"""

CORRELATION_BIBTEX = """@inproceedings{zbontar2021barlow,
  title     = {Barlow Twins: Self-Supervised Learning via Redundancy Reduction},
  author    = {Zbontar, Jure and Jing, Li and Misra, Ishan and LeCun, Yann and Deny, St{\\'e}phane},
  booktitle = {International Conference on Machine Learning},
  year      = {2021},
}"""

ORTHOGONALITY_BIBTEX = """@inproceedings{bansal2018orthogonality,
  title     = {Can We Gain More from Orthogonality Regularizations in Training Deep {CNNs}?},
  author    = {Bansal, Nitin and Chen, Xiaohan and Wang, Zhangyang},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018},
}"""

BY_MEASURE = {
    "direct": WLD_REG_BIBTEX,
    "det": WLD_REG_BIBTEX,
    "logdet": WLD_REG_BIBTEX,
    "decov": DECOV_BIBTEX,
    "vcreg": VCREG_BIBTEX,
    "correlation": CORRELATION_BIBTEX,
    "orthogonality": ORTHOGONALITY_BIBTEX,
    "srip": ORTHOGONALITY_BIBTEX,
}
"""The source of each measure, by its name in `DiversityConfig`; the norm term alone has none."""
